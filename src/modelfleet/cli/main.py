"""The entry point. Groups are imported when they are asked for, so that `--help` is quick."""

from __future__ import annotations

import importlib
import keyword
import sys
from typing import Any

import click

from modelfleet import __version__
from modelfleet.cli.failure import explain

_COMMANDS = {
    "up": ("platform", "Start modelfleet on this machine."),
    "control": ("platform", "Run a further control plane of a home with PostgreSQL."),
    "down": ("platform", "Stop it."),
    "restart": ("platform", "Restart the host agent in place; serving goes on."),
    "status": ("platform", "What runs and how it is."),
    "doctor": ("doctor", "What is wrong with this home, and what to do."),
    "support-bundle": ("doctor", "Collect what somebody needs who helps from afar."),
    "backup": ("backup", "Back a home up: DEST; list and verify what is there."),
    "restore": ("backup", "Build a home from a backup."),
    "logs": ("platform", "Show the log of a process."),
    "login": ("access", "A link that logs you into the pages, once."),
    "fleet": ("evidence", "All endpoints at a glance."),
    "plan": ("fleet", "Show what applying fleet files would change."),
    "apply": ("fleet", "Bring the platform to what fleet files say."),
    "diff": ("fleet", "Compare fleet files with what is there."),
    "destroy": ("fleet", "Stop serving what fleet files applied."),
    "export": ("fleet", "Write what is there as fleet files."),
    "applied": ("fleet", "What fleet files applied, by whom, from which commit."),
    "schema": ("fleet", "The JSON Schema of fleet files, for editors."),
    "models": ("collaboration", "Models: list, create, update, history, owners, watch, ..."),
    "versions": ("collaboration", "Versions: register, show, promote, rebuild, code, copy, ..."),
    "comments": ("collaboration", "Comments on versions: list, add, edit, delete."),
    "reviews": ("collaboration", "Reviews of versions: list, request, answer, withdraw."),
    "templates": ("collaboration", "What new models of a team start with: list, set, ..."),
    "lineage": ("collaboration", "Lineage of anything: show; add and remove edges."),
    "gates": ("gates", "Gates of versions: run (also before registering), list, show."),
    "datasets": ("datasets", "Data sets with versions: push, list, show."),
    "stages": ("standing", "Stages: list, set, delete."),
    "aliases": ("registry", "Aliases: set, delete."),
    "experiments": ("tracking", "Experiments: list."),
    "runs": ("tracking", "Training runs: list, show."),
    "import": ("importing", "Import from MLflow, files, Triton, KServe, W&B, Neptune."),
    "endpoints": ("serving", "Endpoints: list, show, create, traffic, delete."),
    "gateway": ("gateway", "Explain what the gateway does with requests."),
    "quarantine": ("quarantine", "Versions that crashed too often: list, release."),
    "pipelines": ("pipelines", "Pipelines: define, list, show, run, delete."),
    "deploy": ("serving", "Roll a version out at once."),
    "tune": ("tuning", "Measure batch sizes of a version; apply the best."),
    "delivery": ("training", "Where a model stands, and what it waits for."),
    "training": ("training", "Make a better version: start, list, show, log, cancel, hook."),
    "rollouts": ("rollouts", "Rollouts: start, group, list, show, pause, promote, abort, ..."),
    "freezes": ("rollouts", "Freeze windows: list, create, delete."),
    "approvals": ("approvals", "Approvals: list, show, approve, reject."),
    "predict": ("serving", "Call an endpoint."),
    "predictions": ("evidence", "The newest predictions of a version."),
    "batch": ("batch", "Score a table: run, list, show, cancel."),
    "outcomes": ("evidence", "Report what became of predictions."),
    "alerts": ("evidence", "Alerts: list, acknowledge."),
    "principals": ("access", "People and services: list, create."),
    "grants": ("access", "Roles: add, remove."),
    "keys": ("access", "Keys: list, create, revoke."),
    "gc": ("standing", "Remove contents that nothing names any more."),
    "webhooks": ("standing", "Tell others what changes: create, list, test, delete."),
    "audit": ("access", "Every change: list, verify."),
}


class _Lazy(click.Group):
    """A group whose commands live in modules that are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"modelfleet.cli.{_COMMANDS[cmd_name][0]}")
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(module, f"{name}_" if keyword.iskeyword(name) else name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="modelfleet")
def cli() -> None:
    """Run a hundred or a thousand machine-learning models in production.

    The home is ~/.modelfleet unless MODELFLEET_HOME or --home says otherwise. Completion:
    eval "$(_MODELFLEET_COMPLETE=bash_source modelfleet)" (or zsh_source, fish_source).
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; errors become two lines on stderr and an exit code."""
    try:
        sys.exit(cli.main(arguments, standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last one who can explain it
        sys.exit(explain(error))


if __name__ == "__main__":
    main()
