"""`cinemill generate` and `cinemill evaluate`: prompts to videos, weights to numbers."""

import json
import time
from typing import Annotated, Any

import typer

from api.cli.progress import tell_service
from api.cli.trainer_console import Json, Manifest, bars_on_stderr, print_flow, print_note, said_plainly

EVALUATE_HELP = """Measure a trained model on a snapshot: reconstruction of an autoencoder, flow loss of a transformer.

  cinemill evaluate tae --checkpoint out/tae --manifest out/lake

  cinemill evaluate video --checkpoint out/video --manifest out/lake --json
"""


evaluate_app = typer.Typer(help=EVALUATE_HELP, no_args_is_help=True)

Tae = Annotated[
    str | None,
    typer.Option(help="Folder of the autoencoder, where its copy is not beside the checkpoint.", metavar="URI"),
]


def generate_command(
    checkpoint: Annotated[
        str, typer.Option(help="The --out of `cinemill train video`, or one of its checkpoints.", metavar="URI")
    ],
    prompt: Annotated[str, typer.Option(help="What should be seen.", metavar="TEXT")],
    out: Annotated[str, typer.Option(help="The MP4 to write.", metavar="FILE")] = "clip.mp4",
    steps: Annotated[int, typer.Option(min=1, help="Euler steps; linear-quadratic takes at most 250.")] = 50,
    guidance: Annotated[float, typer.Option(help="1 follows the model; more leans harder on the prompt.")] = 7.5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clip on the same device.")] = 0,
    schedule: Annotated[str, typer.Option(help="linear-quadratic or linear.")] = "linear-quadratic",
    frames: Annotated[int | None, typer.Option(help="A length it was trained on.")] = None,
    height: Annotated[int | None, typer.Option(help="A height it was trained on, in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="A width it was trained on, in pixels.")] = None,
    fps: Annotated[float | None, typer.Option(help="A frame rate it was trained on.")] = None,
    tae: Tae = None,
    as_json: Json = False,
) -> None:
    """Make a video from a prompt.

    Example: cinemill generate --checkpoint out/video --prompt "a bee on a flower" --out bee.mp4 --guidance 2
    """
    with said_plainly():
        import torch

        from training.generate import generate

        with bars_on_stderr(quiet=as_json) as bars:
            task, started = bars.add_task("generating", total=steps), time.monotonic()

            unit = "gpu_seconds" if torch.cuda.is_available() else "cpu_seconds"

            def on_step(done: int, _: Any) -> None:
                bars.update(task, completed=done)
                seconds = time.monotonic() - started
                held = seconds * (1 if unit == "gpu_seconds" else torch.get_num_threads())
                tell_service("generating", done, steps, seconds, costs={unit: held})

            made = generate(
                checkpoint,
                prompt,
                out,
                steps=steps,
                guidance=guidance,
                seed=seed,
                schedule=schedule,
                frames=frames,
                height=height,
                width=width,
                fps=fps,
                tae=tae,
                on_step=on_step,
            )
    if as_json:
        print(json.dumps({**vars(made), "path": str(made.path)}))
        return
    print(f"{made.path}: {made.frames} frames of {made.width}x{made.height} at {made.fps:g} fps, seed {made.seed}")


@evaluate_app.command("tae")
def evaluate_tae_command(
    checkpoint: Annotated[str, typer.Option(help="The --out of `cinemill train tae`, or a checkpoint.", metavar="URI")],
    manifest: Manifest,
    as_json: Json = False,
) -> None:
    """PSNR (dB) and SSIM of every kept clip's window, encoded and decoded, beside the best linear transform's."""
    with said_plainly():
        from training.evaluation.reconstruction import evaluate_tae

        report = evaluate_tae(checkpoint, manifest)
    if as_json:
        print(json.dumps(report))
        return
    print(f"{'clip':34}{'split':12}{'PSNR':>7}{'linear':>8}{'SSIM':>7}{'linear':>8}")
    for clip in report["clips"]:
        print(
            f"{clip['clip_id']:34}{clip['split']:12}{clip['psnr']:7.2f}{clip['psnr_linear']:8.2f}"
            f"{clip['ssim']:7.3f}{clip['ssim_linear']:8.3f}"
        )
    print_note(report)


@evaluate_app.command("video")
def evaluate_video_command(
    checkpoint: Annotated[
        str, typer.Option(help="The --out of `cinemill train video`, or a checkpoint.", metavar="URI")
    ],
    manifest: Manifest,
    tae: Tae = None,
    samples: Annotated[int, typer.Option(min=0, help="Also generate from so many training captions and compare.")] = 0,
    against: Annotated[
        str | None,
        typer.Option(help="Another run or checkpoint, compared clip by clip on the same noise.", metavar="URI"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Flow loss at eight fixed times and fixed noise, beside the best Gaussian denoiser's on the same latents."""
    with said_plainly():
        from training.evaluation.flow_loss import compare_reports, evaluate_video

        report = evaluate_video(checkpoint, manifest, tae, samples=samples)
        if against is not None:
            report["against"] = compare_reports(report, evaluate_video(against, manifest, tae))
    if as_json:
        print(json.dumps(report))
        return
    print_flow(report)
    for split, pairs in report.get("against", {}).items():
        interval = "" if pairs["ci95"] is None else f" ± {pairs['ci95']:.4f} (95 %)"
        print(f"  against {against}, {pairs['clips']} {split} clips: {pairs['difference']:+.4f}{interval}")
