"""The command line: `cinemill`. Every command says what it does, what it wrote, and what to do next."""

import shlex
import sys
import traceback

import typer
from typer.exceptions import TyperException

from api.cli import backup, curation, demo, doctor, fetch, generation, jobs, manifest, openapi, service, token, training
from curation.clips.errors import WrongCall, is_damage

HELP = """Raw footage in, a text-to-video model out.

A first walk, on the clips that come with it:

  cinemill curate samples --recipe demo --out out/lake

  cinemill manifest show --out out/lake

  cinemill explain samples/roof_handheld_360p.mp4 --out out/lake

  cinemill train tae --manifest out/lake --recipe tae_demo --out out/tae

  cinemill train video --manifest out/lake --tae out/tae --out out/video

  cinemill generate --checkpoint out/video --prompt "a bee" --out bee.mp4

  cinemill serve --data out/lake

`cinemill demo` does all of it and makes a report page.

Exit codes: 0 done, 1 failed, 2 a wrong call, 130 interrupted, run again.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("fetch")(fetch.fetch_command)
app.command("curate")(curation.curate_command)
app.add_typer(manifest.manifest_app, name="manifest")
app.command("explain")(curation.explain_command)
app.command("recipe")(curation.recipe_command)
app.command("probe")(curation.probe_command)
app.command("strip")(curation.strip_command)
app.command("shots")(curation.shots_command)
app.command("doctor")(doctor.doctor_command)
app.add_typer(training.train_app, name="train")
app.command("generate")(generation.generate_command)
app.add_typer(generation.evaluate_app, name="evaluate")
app.add_typer(jobs.jobs_app, name="jobs")
app.command("serve")(service.serve_command)
app.add_typer(token.token_app, name="token")
app.command("openapi")(openapi.openapi_command)
app.command("backup")(backup.backup_command)
app.command("restore")(backup.restore_command)
app.command("demo")(demo.demo_command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; every error of the caller's is one clear line on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = typer.main.get_command(app).main(args=words, prog_name="cinemill", standalone_mode=False)
        return _interrupted(words) if code == 130 else int(code or 0)  # typer answers Ctrl-C by itself
    except (
        TyperException
    ) as error:  # a wrong word; a group without a command has printed its help and says nothing more
        message = error.format_message()
        context = getattr(error, "ctx", None)
        where = f"; see `{context.command_path} --help`" if context else ""
        return _say(f"{message}{where}", 2) if message else 2
    except WrongCall as error:
        return _say(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(words)
    except OSError as error:
        if error.errno == 28:
            return _say(
                f"the disk is full ({error.filename or 'while writing'}); free some space and run the same command again",
                1,
            )
        if error.errno is None:  # Arrow's word for a file that is not what it should be
            return _say(_damaged(error), 1)
        traceback.print_exc()
        return _say(f"failed: {error}", 1)
    except Exception as error:
        if is_damage(error):
            return _say(_damaged(error), 1)
        traceback.print_exc()
        return _say(f"failed: {type(error).__name__}: {error}", 1)


def _damaged(error: Exception) -> str:
    first = str(error).strip().split("\n")[0][:300]
    return f"files cannot be read, they or the lake's catalog may be damaged: {first}"


def _interrupted(words: list[str]) -> int:
    again = (
        [*words, "--resume"]
        if words[:2] in (["train", "tae"], ["train", "video"]) and "--resume" not in words
        else words
    )
    return _say(f"interrupted; continue with: {shlex.join(['cinemill', *again])}", 130)


def _say(line: str, code: int) -> int:
    print(f"cinemill: {' '.join(line.split())}", file=sys.stderr)
    return code
