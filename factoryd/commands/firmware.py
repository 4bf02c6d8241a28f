"""`factoryd firmware`: versions that devices may be brought to."""

from dataclasses import asdict
from typing import Annotated

import typer

from factoryd.commands import firmware_add, firmware_attach, firmware_keys, firmware_release, firmware_sign
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption, print_one, print_rows
from storage.firmware_views import get_version, list_versions

app = typer.Typer(no_args_is_help=True, help="Versions: add, sign, release, recall.")

COLUMNS = {
    "version": "VERSION",
    "status": "STATUS",
    "hardware": "HARDWARE",
    "size_bytes": "BYTES",
    "manifest_seq": "SEQ",
    "signed_by": "SIGNED BY",
    "expires_at": "EXPIRES",
    "devices": "DEVICES",
    "live": "LIVE",
    "released_at": "RELEASED",
}

firmware_add.register(app)
firmware_sign.register(app)
firmware_attach.register(app)
firmware_release.register(app)
app.add_typer(firmware_keys.app, name="key")


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists versions, the newest first. DEVICES run it, LIVE deployments are under way."""
    rows = [asdict(view) for view in list_versions(settings_of(ctx).database, limit=limit)]
    if output is Output.TABLE:
        rows = [{**row, "hardware": ", ".join(row["hardware"]), "signed_by": ", ".join(row["signed_by"])} for row in rows]
    print_rows(rows, COLUMNS, output, nothing="no firmware; factoryd firmware add makes a draft")


@app.command()
def show(
    ctx: typer.Context, version: Annotated[str, typer.Argument(metavar="VERSION")], output: OutputOption = Output.TABLE
) -> None:
    """Shows all that is known of a version; factoryd firmware verify judges its signatures."""
    view = asdict(get_version(settings_of(ctx).database, version))
    print_one(view if output is not Output.TABLE else {name: value for name, value in view.items() if value}, output)
