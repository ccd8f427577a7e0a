"""The command line: `cinemill`. Every command says what it does, what it wrote, and what to do next."""

import shlex
import sys
import traceback

import click
import typer

from api.cli import curation, doctor, manifest
from curation.clips.errors import WrongCall

HELP = """Raw footage in, a text-to-video model out.

A first walk, on the clips that come with it:

  cinemill curate samples --recipe demo --out out/lake     footage -> clips -> manifest

  cinemill manifest show --out out/lake                    what was kept, what left, and why

  cinemill explain samples/roof_handheld_360p.mp4 --out out/lake

  cinemill train tae --manifest out/lake --recipe tae_demo --out out/tae

  cinemill train video --manifest out/lake --tae out/tae --recipe video_demo --out out/video

  cinemill generate --checkpoint out/video --prompt "a bee on a flower" --out clip.mp4

  cinemill serve --data out/lake                           the dashboard, on http://127.0.0.1:8000

`cinemill demo` does all of it. Exit codes: 0 done, 1 failed, 2 a wrong call, 130 interrupted and resumable.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("curate")(curation.curate_command)
app.add_typer(manifest.manifest_app, name="manifest")
app.command("explain")(curation.explain_command)
app.command("recipe")(curation.recipe_command)
app.command("probe")(curation.probe_command)
app.command("strip")(curation.strip_command)
app.command("shots")(curation.shots_command)
app.command("doctor")(doctor.doctor_command)


def _register_later_rooms() -> None:
    """Training, service and demo register here; their files import nothing heavy at the top, so `--help` stays quick."""
    import contextlib

    from api.cli import demo, service

    with contextlib.suppress(ImportError):
        from api.cli import training

        app.add_typer(training.train_app, name="train")
        app.command("generate")(training.generate_command)
        app.add_typer(training.evaluate_app, name="evaluate")
    app.command("serve")(service.serve_command)
    app.command("demo")(demo.demo_command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; every error of the caller's is one clear line on stderr."""
    _register_later_rooms()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = typer.main.get_command(app).main(args=words, prog_name="cinemill", standalone_mode=False)
        return int(code or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else error, file=sys.stderr)
        return 2
    except click.UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _say(f"{error.format_message()}{where}", 2)
    except WrongCall as error:
        return _say(str(error), 2)
    except (KeyboardInterrupt, click.Abort):
        return _say(f"interrupted; continue with: {shlex.join(['cinemill', *words])}", 130)
    except OSError as error:
        if error.errno == 28:
            return _say(
                f"the disk is full ({error.filename or 'while writing'}); free some space and run the same command again",
                1,
            )
        traceback.print_exc()
        return _say(f"failed: {error}", 1)
    except Exception as error:
        traceback.print_exc()
        return _say(f"failed: {type(error).__name__}: {error}", 1)


def _say(line: str, code: int) -> int:
    print(f"cinemill: {' '.join(line.split())}", file=sys.stderr)
    return code
