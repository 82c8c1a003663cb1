"""Cancel an import: its leads that are not at Clay yet end as suppressed."""

from __future__ import annotations

from functools import partial

from stream_app.board.actions.base import Action, Fact, Form, FormRequest, Submission
from stream_app.board.api_access import Refused
from stream_app.board.commands import followed_at
from stream_app.board.formats import amount
from stream_app.board.paths import imports_path
from stream_app.board.site import Site
from stream_app.client.commands import CommandSender


def import_actions(site: Site, sender: CommandSender) -> list[Action]:
    """Return the actions of the page of an import."""
    return [Action("/imports/act/cancel", partial(_cancel, site), partial(_send, sender), "imports")]


def _cancel(site: Site, opened: FormRequest) -> Form:
    workspace, import_id = _names(opened)
    found, _ = site.queries.imports(workspace, import_id, None, 1) if workspace and import_id else ([], None)
    if not found or workspace not in site.settings.workspaces:
        raise Refused(404, "unknown_import", "No lead of this import is known, or its workspace is not configured")
    each = found[0]
    return Form(
        title=f"Cancel import {import_id}",
        text=f"Leads of this import in {workspace} that were published until now and are not at Clay yet end as "
        "suppressed. Leads at Clay go on, and results stay.",
        button="Cancel the import",
        back=imports_path(workspace=workspace, id=import_id),
        facts=(Fact("Leads not at rest", amount(each.moving), "suppressed, unless they are at Clay"),),
        typed=workspace,
        is_final=True,
    )


async def _send(sender: CommandSender, submission: Submission) -> str:
    workspace, import_id = _names(submission.opened)
    args = {"import_id": import_id}
    await sender.send(submission.id, "cancel_import", workspace, args, submission.who, submission.why)
    return followed_at(imports_path(workspace=workspace, id=import_id), [submission.id])


def _names(opened: FormRequest) -> tuple[str, str]:
    return opened.query.get("workspace", ""), opened.query.get("id", "")
