"""The string that the text encoders read: a caption behind its tags."""


def tagged(caption: str | None, fps: float = 0.0, camera: str | None = None) -> str:
    """Frames per second, then the camera's motion in words, then the caption; 0 and None leave their tag out.

    tagged("A bee lands.", 16, "pan left") is "FPS-16 pan left. A bee lands." (Movie Gen 3.1.4 and 3.2.2). Camera words
    that the caption holds already are not said twice.
    """
    caption = (caption or "").strip()
    tags = [f"FPS-{round(fps)}"] if fps else []
    if camera and camera.lower() not in caption.lower():
        tags.append(f"{camera}.")
    return " ".join([*tags, caption]).strip()
