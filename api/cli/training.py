"""`cinemill train`: manifests to weights."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.trainer_console import (
    Json,
    Manifest,
    PhaseBars,
    bars_on_stderr,
    print_flow,
    print_note,
    run_shown,
    said_plainly,
)
from training.accelerators import PRICE

if TYPE_CHECKING:
    from training.cluster import Launch, Progress
    from training.runs import Kind


TRAIN_HELP = """Train a model on a snapshot of a manifest.

First the autoencoder, then the video transformer on its latents:

  cinemill train tae --manifest out/lake --recipe tae_demo --out out/tae

  cinemill train video --manifest out/lake --tae out/tae --recipe video_demo --out out/video

A stage starts from the one before with --from; `average` makes one model of several:

  cinemill train video --manifest out/lake --tae out/tae --recipe video_demo_joint --from out/t2i --out out/joint

  cinemill train average out/sft-a out/sft-b --out out/averaged

Before a run on GPUs, `plan` says what fits, how long it takes and what it costs:

  cinemill train plan --recipe video_256 --gpus 64

OUT holds run.json, metrics.jsonl (one line a step), tensorboard/, checkpoints/, evaluation.json and final/.
Ctrl-C saves a checkpoint; the same line with --resume continues to the same losses.
"""
train_app = typer.Typer(help=TRAIN_HELP, no_args_is_help=True)

Out = Annotated[str, typer.Option(help="Folder of the run; new, or with --resume this very run's.", metavar="URI")]
Workers = Annotated[
    str,
    typer.Option(
        help="Ray Train workers: 4, or 2-8 for as many as there is room for. Together they compute what one would."
    ),
]
Restarts = Annotated[int, typer.Option(help="How often a lost worker may send the run back to its newest checkpoint.")]
Checkpoints = Annotated[
    str | None,
    typer.Option(help="Where checkpoints go, s3:// and gs:// too; OUT/checkpoints by default.", metavar="URI"),
]
Prepare = Annotated[
    bool, typer.Option("--prepare", help="Check everything, write OUT/run.json, and say how to start it with torchrun.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the newest whole checkpoint.")]
Address = Annotated[
    str | None, typer.Option(help="A running Ray; one is started on this machine's loopback by default.")
]


@train_app.command("tae")
def train_tae_command(
    manifest: Manifest,
    out: Out,
    recipe: Annotated[
        str, typer.Option(help="tae_demo, tae_paper, or a .yaml or .toml file (base: tae_demo and what differs).")
    ] = "tae_demo",
    workers: Workers = "1",
    restarts: Restarts = 3,
    resume: Resume = False,
    checkpoints: Checkpoints = None,
    address: Address = None,
    prepare: Prepare = False,
    as_json: Json = False,
) -> None:
    """Train the temporal autoencoder: 8 x 8 x 8 pixels to one place of 16 numbers, and back.

    Ends by measuring the latents' scale and, clip by clip, PSNR and SSIM beside the best linear transform's.
    """
    from training.cluster import Launch, parse_workers, train_tae
    from training.recipes import load_tae_recipe

    with said_plainly():
        chosen = load_tae_recipe(recipe)
        launch = Launch(workers=parse_workers(workers), restarts=restarts, address=address)
    kept: dict[str, Any] = {"resume": resume, "checkpoints": checkpoints}
    if prepare:
        return _prepare("tae", manifest, chosen, out, as_json, launch, **kept)

    def go(show: "Callable[[Progress], None]") -> Path:
        return train_tae(manifest, chosen, out, launch=launch, progress=show, **kept)

    final = run_shown(go, quiet=as_json)
    report = _report(final)
    if as_json:
        print(json.dumps({"final": str(final), **report}))
        return
    print(f"autoencoder: {final}")
    for split, values in report["summary"].items():
        print(
            f"  {values['clips']} {split} clips: PSNR median {values['psnr_median']:.1f} dB, worst {values['psnr_worst']:.1f} dB "
            f"(best linear transform: median {values['psnr_linear_median']:.1f} dB); SSIM median {values['ssim_median']:.2f}"
        )
    print_note(report)
    print(
        f"next: cinemill train video --manifest {shlex.quote(manifest)} --tae {shlex.quote(out)} --recipe video_demo --out ..."
    )


@train_app.command("video")
def train_video_command(
    manifest: Manifest,
    out: Out,
    tae: Annotated[
        str, typer.Option(help="Folder of a trained autoencoder: the --out of `cinemill train tae`.", metavar="URI")
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="video_demo, a stage (docs/training.md lists them), or a .yaml or .toml file (base: video_demo and what differs)."
        ),
    ] = "video_demo",
    start: Annotated[
        str | None,
        typer.Option("--from", help="The stage before: weights to start from, with a new optimizer.", metavar="URI"),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(help="Latents and text embeddings, for many runs; OUT/cache by default.", metavar="FOLDER"),
    ] = None,
    workers: Workers = "1",
    parallel: Annotated[
        str,
        typer.Option(
            help="How workers share out the model, e.g. dp_shard=2,cp=2,tp=2,recompute=save-attention,compile; see docs/parallel.md.",
            metavar="LAYOUT",
        ),
    ] = "",
    restarts: Restarts = 3,
    resume: Resume = False,
    checkpoints: Checkpoints = None,
    address: Address = None,
    prepare: Prepare = False,
    as_json: Json = False,
) -> None:
    """Train the video transformer by flow matching on the latents of --tae, encoded once ahead of training.

    Ends with the loss at fixed times beside the best Gaussian denoiser's, and samples beside the clips they should be.
    """
    from training.cluster import Launch, parse_workers, train_video
    from training.parallel.mesh import ParallelConfig
    from training.recipes import load_video_recipe

    with said_plainly():
        chosen = load_video_recipe(recipe)
        layout = ParallelConfig.parse(parallel)
        launch = Launch(workers=parse_workers(workers), restarts=restarts, address=address, parallel=layout)
    kept: dict[str, Any] = {"tae": tae, "start": start, "cache": cache, "resume": resume, "checkpoints": checkpoints}
    if prepare:
        return _prepare("video", manifest, chosen, out, as_json, launch, parallel=layout, **kept)

    def go(show: "Callable[[Progress], None]") -> Path:
        return train_video(manifest, chosen, out, launch=launch, progress=show, **kept)

    final = run_shown(go, quiet=as_json)
    report = _report(final)
    if as_json:
        print(json.dumps({"final": str(final), **report}))
        return
    print(f"video transformer: {final}")
    print_flow(report)
    print(f'next: cinemill generate --checkpoint {shlex.quote(out)} --prompt "..." --out clip.mp4')


@train_app.command("encode")
def encode_command(
    manifest: Manifest,
    tae: Annotated[
        str, typer.Option(help="Folder of a trained autoencoder: the --out of `cinemill train tae`.", metavar="URI")
    ],
    out: Annotated[str, typer.Option(help="The cache: a new folder, or one to go on with.", metavar="FOLDER")],
    recipe: Annotated[
        str, typer.Option(help="The run's: video_demo, a stage, or a .yaml or .toml file.")
    ] = "video_demo",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Fill a cache with the latents and text embeddings that `train video --cache` reads; what is there stays.

    Example: cinemill train encode --manifest out/lake --tae out/tae --recipe video_demo --out out/cache
    """
    from training.cluster import Progress, RunFailed
    from training.encode_job import encode
    from training.recipes import load_video_recipe

    with said_plainly():
        chosen = load_video_recipe(recipe)
    try:
        with bars_on_stderr(quiet=as_json) as bars, said_plainly():
            shown = PhaseBars(bars)
            filled = encode(
                manifest,
                chosen,
                out,
                tae=tae,
                address=address,
                progress=lambda done, total: shown(Progress(phase="encoding", done=done, total=total, numbers={})),
            )
    except RunFailed as error:
        print(f"cinemill: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps({"cache": out, **vars(filled)}))
        return
    print(f"cache: {out}, {filled.made} entries made, {filled.total - filled.missing} were there")
    for clip_id, why in filled.failed.items():
        print(f"  not read: {clip_id}: {why}")
    print(
        f"next: cinemill train video --manifest {shlex.quote(manifest)} --tae {shlex.quote(tae)} --recipe {recipe} "
        f"--cache {shlex.quote(out)} --out ..."
    )


@train_app.command("replay")
def replay_command(
    run: Annotated[str, typer.Argument(help="The --out of a run.", metavar="RUN")],
    step: Annotated[int, typer.Option(min=1, help="As the log numbers it.")],
    as_json: Json = False,
) -> None:
    """Do one step of a run again and compare it with the log: clips, times, loss. Changes nothing in the run.

    Starts at the nearest checkpoint before the step. Exit code 1 where the step comes out differently.

    Example: cinemill train replay out/video --step 437
    """
    with said_plainly():
        from training.replay import replay

        done = replay(run, step)
    if as_json:
        samples = [
            {"clip_id": s.clip_id, "bucket": s.bucket.name, "caption": s.caption, **({"time": t} if done.times else {})}
            for s, t in zip(done.samples, done.times or [0.0] * len(done.samples), strict=True)
        ]
        numbers = {"replayed": done.numbers, "logged": done.logged, "differences": done.differences, "same": done.same}
        print(json.dumps({"step": step, "from_step": done.from_step, "samples": samples, **numbers}))
    else:
        print(f"step {step}, from the weights after step {done.from_step}; batch {done.batch}")
        for number, sample in enumerate(done.samples):
            time = f"  t {done.times[number]:.6f}" if done.times else ""
            print(f"  {sample.slot:4} {sample.clip_id}  {sample.bucket.name:18}{time}  {sample.caption[:60]}")
        print(f"  clips, shapes, captions and keys: {'the same' if done.same_batch else 'NOT those of the log'}")
        for name, difference in done.differences.items():
            print(f"  {name:14} {done.numbers[name]:.9g}, logged {done.logged[name]:.9g}, apart {difference:.1e}")
    if not done.same:
        raise typer.Exit(1)


@train_app.command("verify-parallel")
def verify_parallel_command(
    recipe: Annotated[str, typer.Option(help="Of a video transformer: a name, or a .yaml or .toml file.")],
    workers: Annotated[int, typer.Option(min=1, help="Leave out layouts of more processes than this.")] = 4,
    as_json: Json = False,
) -> None:
    """Prove that layouts over several workers train this recipe as one worker does; needs no data and no GPU.

    A small copy of the model is trained for two steps in float64 by one process, then by every layout of data, sharded
    data, tensor and context parallel workers. Exit code 1 where anything is further apart than 1e-10.

    Example: cinemill train verify-parallel --recipe video_256
    """
    with said_plainly():
        from training.parallel.verify import LAYOUTS, TARGET, Compared, verify
        from training.recipes import load_video_recipe

        chosen = load_video_recipe(recipe)

    def show(line: Compared) -> None:
        if as_json:
            return
        if why := line.skipped or line.failed:
            print(f"{line.name:26}{'does not fit' if line.skipped else 'FAILED'}: {why}")
            return
        name, gradient = line.worst
        print(
            f"{line.name:26}{line.loss:9.1e}{line.norm:9.1e}{gradient:10.1e}{line.update:9.1e}{line.average:9.1e}"
            f"{line.seconds:6.1f} s  {name}{'' if line.passed else '  WRONG'}"
        )

    if not as_json:
        print(f"{chosen.name}, small, float64; max |difference| / max |value| to one worker, target {TARGET:.0e}")
        print(f"{'':26}{'loss':>9}{'norm':>9}{'gradient':>10}{'update':>9}{'average':>9}{'':8}  worst gradient")
    lines = verify(chosen, {name: layout for name, layout in LAYOUTS.items() if layout[1] <= workers}, show=show)
    passed = all(line.passed for line in lines)
    if as_json:
        print(
            json.dumps({"recipe": chosen.name, "target": TARGET, "passed": passed, "layouts": [vars(x) for x in lines]})
        )
    if not passed:
        raise typer.Exit(1)


@train_app.command("page")
def page_command(
    run: Annotated[str, typer.Argument(help="The --out of a run, finished or going.", metavar="RUN")],
    out: Annotated[str | None, typer.Option(help="The HTML file; RUN/page.html by default.", metavar="FILE")] = None,
) -> None:
    """Write one self-contained HTML file about a run: its recipe and data, losses, speed, learning rates, pictures.

    Example: cinemill train page out/video
    """
    with said_plainly():
        from api.report.training_run import build_run_page

        print(build_run_page(run, None if out is None else Path(out)))


@train_app.command("average")
def average_command(
    checkpoints: Annotated[list[str], typer.Argument(help="Runs, final folders or checkpoints.", metavar="MODEL...")],
    out: Annotated[str, typer.Option(help="A new folder for the mean; --checkpoint of generate.", metavar="URI")],
) -> None:
    """Average the weights of several video transformers of one kind, in float32.

    Example: cinemill train average out/sft-a out/sft-b out/sft-c --out out/averaged
    """
    with said_plainly():
        from training.averaging import average_models

        folder = average_models(checkpoints, out)
    print(f"mean of {len(checkpoints)} models: {folder}")
    print(f'next: cinemill generate --checkpoint {shlex.quote(out)} --prompt "..." --out clip.mp4')


@train_app.command("plan")
def plan_command(
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name, or a .yaml or .toml file (docs/training.md lists them).")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="paper or demo: a whole chain of stages instead of one recipe.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs there are; the plan may leave some idle.")] = 8,
    gpu: Annotated[str, typer.Option(help="h200 or h100.")] = "h200",
    price: Annotated[float, typer.Option(min=0.0, help="Dollars per GPU-hour.")] = PRICE,
    cp: Annotated[int | None, typer.Option(min=1, help="GPUs that share a sample's tokens; searched.")] = None,
    tp: Annotated[int | None, typer.Option(min=1, help="GPUs that share every matrix; searched.")] = None,
    recompute: Annotated[str | None, typer.Option(help="none, save-attention or full; searched.")] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Padded length of each encoder's text.")] = 128,
    as_json: Json = False,
) -> None:
    """Say before a run what fits and what it costs: parameters, memory by part, mesh, recomputation, micro-batches, time, dollars.

    Nothing is built and no GPU is touched: it is arithmetic on the recipe, at kernel rates that others published. What is
    given (--cp, --tp, --recompute) is kept, the rest is searched for the shortest step. What cannot fit is refused, with
    the knob that helps. Model FLOPs count a backward pass as two forwards; executed FLOPs count attention's backward
    kernels at 2.5 and what is computed again.

      cinemill train plan --recipe video_768 --gpus 512

      cinemill train plan --recipe video_768 --gpus 64 --gpu h100 --tp 8 --recompute full

      cinemill train plan --stages paper --gpus 6144 --gpu h100 --json
    """
    with said_plainly():
        from training.planner import plan_recipes

        plans = plan_recipes(recipe, stages, gpus, gpu, text_tokens=text_tokens, cp=cp, tp=tp, recompute=recompute)
    if as_json:
        totals = {name: sum(p.described(price)[name] for p in plans) for name in ("gpu_hours", "model_flops", "cost")}
        print(json.dumps({"stages": [plan.described(price) for plan in plans], "price": price, "total": totals}))
        return
    from api.cli.planning import print_chain, print_plan, print_sources

    if stages is None:
        print_plan(plans[0], price, gpus)
    else:
        print_chain(plans, price)
    print_sources(price)


def _prepare(kind: "Kind", manifest: str, recipe: Any, out: str, as_json: bool, launch: "Launch", **kept: Any) -> None:
    """Write the run's folder for another launcher than Ray Train, which decides on workers itself."""
    from training.prepare import prepare_run

    with said_plainly():
        run = prepare_run(kind, manifest, recipe, out, **kept)
    devices = launch.workers if launch.workers != 1 else "DEVICES"
    words = f"torchrun --nproc-per-node {devices} --max-restarts {launch.restarts} -m training.launch"
    command = f"{words} {shlex.quote(str(run.out))}"
    print(json.dumps({"run": str(run.out), "command": command}) if as_json else f"ready: {command}")


def _report(final: Path) -> dict[str, Any]:
    return json.loads((final.parent / "evaluation.json").read_text())
