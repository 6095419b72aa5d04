"""Submitting a job from a form that is made from the JSON Schema of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.dashboard.schema_form import FormField, form_fields, parameters_from
from app.dashboard.site import Site, caller_name, done, first, wants_json
from core.errors import Fault, InvalidInput
from core.jobs import JobDefinition
from infrastructure.telemetry.context import current_traceparent

_RERUN = "__rerun"


class SubmitPages:
    """``/submit`` and ``/submit/{job_type}``."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def index(self, request: Request) -> Response:
        """The types of jobs."""
        types = [self._site.application.jobs[name] for name in sorted(self._site.application.jobs)]
        return self._site.html(request, "submit_index.html", {"title": "Submit a job", "types": types})

    async def form(self, request: Request) -> Response:
        """The form of a type."""
        definition = self._site.application.jobs[request.path_params["job_type"]]
        fields = form_fields(definition.parameters.model_json_schema())
        return self._form(request, definition, fields, [])

    async def submit(self, request: Request) -> Response:
        """Submit what was filled in; every fault is shown at its field."""
        definition = self._site.application.jobs[request.path_params["job_type"]]
        given = await self._site.form(request)
        fields = form_fields(definition.parameters.model_json_schema(), given)
        parameters, faults = parameters_from(fields, given)
        if not faults:
            try:
                return await self._accept(request, definition, parameters, rerun=first(given, _RERUN) == "true")
            except InvalidInput as error:
                faults = list(error.faults)
        return self._form(request, definition, fields, faults, rerun=first(given, _RERUN) == "true")

    async def _accept(
        self, request: Request, definition: JobDefinition[Any], parameters: Mapping[str, Any], *, rerun: bool
    ) -> Response:
        submitted = await run_in_threadpool(
            self._site.application.machine.submit_job,
            definition.job_type,
            parameters,
            rerun=rerun,
            submitted_by=caller_name(request),
            traceparent=current_traceparent(),
        )
        job_id = submitted.job.job_id
        if submitted.created:
            await run_in_threadpool(self._site.record, request, "submit", job_id=job_id)
        message = "The job is submitted." if submitted.created else "This job is known already: this is its latest run."
        self._site.hub.poke()
        return done(request, f"/jobs/{job_id}", message)

    def _form(
        self,
        request: Request,
        definition: JobDefinition[Any],
        fields: Sequence[FormField],
        faults: Sequence[Fault],
        *,
        rerun: bool = False,
    ) -> Response:
        if faults and wants_json(request):
            return JSONResponse({"faults": [[_top(fault), str(fault)] for fault in faults]}, status_code=422)
        names = {field.name for field in fields}
        context = {
            "title": f"Submit {definition.job_type}",
            "definition": definition,
            "fields": fields,
            "faults": {name: [str(one.message) for one in faults if _top(one) == name] for name in names},
            "general": [str(fault) for fault in faults if _top(fault) not in names],
            "rerun": rerun,
            "rerun_field": _RERUN,
        }
        return self._site.html(request, "submit.html", context, status=422 if faults else 200)


def _top(fault: Fault) -> str:
    """The field of the form that a fault belongs to."""
    return fault.field.split(".", maxsplit=1)[0]
