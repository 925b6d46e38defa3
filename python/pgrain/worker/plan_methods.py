"""The methods behind plan_repair, repair and assess, long ones in slices."""

from __future__ import annotations

import math
import time

import numpy as np

from pgrain.complaint import cell as cells
from pgrain.complaint.outcome import Watchful, one_sided, reading
from pgrain.errors import InvalidArgument, UnsupportedOperator
from pgrain.worker.assessing import USEFUL, USELESS, Assessment, Finding
from pgrain.worker.complaints import evaluation_of, slopes
from pgrain.worker.planning import Plan, Planner, chosen_model, default_budget, run
from pgrain.worker.prefixes import completed, default_directions, stored_rows
from pgrain.worker.ranking import METHODS, Ranker, check_options
from pgrain.worker.resident import Residents

SLICE_SECONDS = 0.2     # of work a request, so that a session sees progress and can be cancelled
_OWN = ("rows", "model", "directions")
MOST_DIRECTIONS = 200


class PlanMethods:
    """The methods; one instance serves all connections."""

    def __init__(self, residents: Residents):
        self._residents, self._ranker = residents, Ranker(residents)

    def plan_repair(self, state: dict, params: dict, blobs: list) -> tuple:
        """A slice of a plan: {"progress": [done, about, message]}, at last {"rows", "notices"}.

        The first request brings `matches`, `intervention` and `options`, and `cell` where an
        earlier round has chosen it; the others go on.
        """
        evaluation = evaluation_of(state, params)
        if "matches" in params:
            planning, notices = self._begin(evaluation, params)
            if planning is None:
                evaluation_of(state, params, last=True)
                return {"rows": [], "notices": notices, "model": None, "cures": True}, []
            evaluation.planning = planning, notices
        planning, notices = evaluation.planning
        found = run(planning, SLICE_SECONDS)
        if not isinstance(found, Plan):
            return {"progress": [found.done, found.total, found.message]}, []
        evaluation_of(state, params, last=True)
        return {"rows": [[_sent(cell) for cell in row] for row in found.rows],
                "notices": [*notices, *found.notices], "model": found.model,
                "cures": found.cures}, []

    def _begin(self, evaluation, params: dict):
        objective = evaluation.objective(params["matches"], params.get("cell"))
        gradient, notices = slopes(objective)
        Watchful(objective)                     # refuses complaints that can never hold
        if gradient is None:
            return None, notices
        options = {name: value for name, value in params["options"].items() if name not in _OWN}
        if check_options(options, params["intervention"]) != METHODS[0]:
            raise UnsupportedOperator(f'a plan is made by method "{METHODS[0]}" alone')
        name = chosen_model(gradient, params["options"].get("model"))
        variables = evaluation.variables[name]
        spectrum = self._residents.spectrum(variables.resident, variables.spectrum)
        budget = check_budget(params["options"].get("rows"), len(spectrum.training.rows))
        slope, cell = gradient[name], objective.effect_gradient()[name]
        suspects = self._ranker.suspects(
            variables.resident, spectrum, variables.projection(slope), variables.projection(cell),
            budget, params["intervention"], options, notices)
        return self._planner(objective, evaluation.variables, name, spectrum, suspects,
                             params["options"].get("directions"), notices).plan(), notices

    def _planner(self, objective, variables, name, spectrum, suspects, directions,
                 notices: list[str]) -> Planner:
        directions = check_directions(directions, variables[name].resident.model)
        planner = Planner(objective, variables, name, spectrum, suspects)
        if not directions:
            planner.prefixes.repaired = stored_rows(self._residents, spectrum, suspects)
            return planner
        completion, repaired, why = completed(self._residents, variables[name], spectrum, suspects,
                                              planner.step)
        if completion is None:
            notices.append(f"predicted in the stored directions alone: {why}")
            planner.prefixes.repaired = repaired
        else:
            planner.complete(completion, repaired, directions)
        return planner

    def assess(self, state: dict, params: dict, blobs: list) -> tuple:
        """A slice of an assessment: {"progress": number of checks done}, at last {"rows"} of
        pgrain.assess. The first request brings `matches`."""
        evaluation = evaluation_of(state, params)
        if "matches" in params:
            objective = evaluation.objective(params["matches"])
            gradient, notices = slopes(objective)
            if gradient is None:
                evaluation_of(state, params, last=True)
                return {"rows": [["overall", None, USELESS, f"{notices[-1].capitalize()}."]]}, []
            size = {model: float(np.abs(slope).sum()) for model, slope in gradient.items()}
            name = max(size, key=size.__getitem__)
            variables = evaluation.variables
            spectrum = self._residents.spectrum(variables[name].resident,
                                                variables[name].spectrum)
            evaluation.assessment = Assessment(objective, variables, name, spectrum,
                                               gradient[name]).findings(), judged(name, size)
        findings, found = evaluation.assessment
        deadline = time.monotonic() + SLICE_SECONDS
        for made in findings:
            found += made
            if made and made[0].check == "overall":
                evaluation_of(state, params, last=True)
                return {"rows": [[f.check, _sent(f.value), f.verdict, f.hint]
                                 for f in (found[-1], *found[:-1])]}, []
            if time.monotonic() > deadline:
                break
        return {"progress": len(found)}, []

    def holds(self, state: dict, params: dict, blobs: list) -> tuple:
        """Whether the complaints hold, and the cell that they are told by: {"holds", "value",
        "relaxed", "cell", "name", "complaints"}. Of a number or text whose WHERE selects nothing
        any more, nothing is left to complain about. cell: for the params of later calls, so that
        they are about the same one, cured or not. complaints: what says the same from here on
        (`one_sided`)."""
        evaluation = evaluation_of(state, params, last=True)
        rows = evaluation.matched(params["matches"])
        numbered = [number for number, (complaint, found) in
                    enumerate(zip(evaluation.complaints, rows, strict=True))
                    if found or complaint.operator == "no row"]
        holds = not any(complaint.operator == "a row" and not found for complaint, found in
                        zip(evaluation.complaints, rows, strict=True))
        asked = [one_sided(complaint, evaluation.circuit, evaluation.value, found)
                 for complaint, found in zip(evaluation.complaints, rows, strict=True)]
        objective = evaluation.objective_of([evaluation.complaints[n] for n in numbered],
                                            [rows[n] for n in numbered]) if numbered else None
        if objective is not None:
            holds = holds and Watchful(objective).holds(evaluation.value)
        sent, chosen = params.get("cell"), None
        if sent:
            chosen = cells.found(evaluation.value, sent, len(evaluation.complaints))
        elif objective is not None and objective.cell is not None:
            chosen = numbered[objective.cell[0]], objective.cell[1]
            sent = cells.as_sent(evaluation.value, chosen)
        value, relaxed = reading(
            evaluation.circuit, evaluation.value,
            {name: v.p for name, v in evaluation.variables.items()}, chosen and chosen[1])
        if chosen is None and (evaluation.complaints[sent["complaint"]].operator == "no row" if sent
                               else objective and objective.complaints[0].operator == "no row"):
            value = 0.0                             # no row matches, so none is there
        return {"holds": holds, "value": _sent(value), "relaxed": _sent(relaxed), "cell": sent,
                "name": chosen and cells.cell_name(evaluation.value, chosen[1]),
                "complaints": asked}, []


def judged(name: str, size: dict[str, float]) -> list[Finding]:
    """Which model an assessment is about, where several move the complaint; else nothing."""
    others = sorted(other for other, much in size.items() if much and other != name)
    if not others:
        return []
    listed = ", ".join(f'"{other}"' for other in others)
    return [Finding("model", None, USEFUL, f'This is about model "{name}" and its training rows, '
                    f"whose predictions move the complaint most; {listed} "
                    f"{'moves' if len(others) == 1 else 'move'} it as well.")]


def check_budget(rows, n: int) -> int:
    """Option `rows`: at most how many training rows a plan may edit."""
    if rows is None:
        return default_budget(n)
    if type(rows) is not int or rows < 1:
        raise InvalidArgument('option "rows" must be a whole number of at least 1',
                              hint="It is the most training rows that may be edited.")
    return min(rows, n)


def check_directions(directions, model) -> int:
    """Option `directions`: how many a plan may find beside the stored eigenvectors."""
    if directions is None:
        return default_directions(model)
    if type(directions) is not int or not 0 <= directions <= MOST_DIRECTIONS:
        raise InvalidArgument(f'option "directions" must be a whole number of 0 to '
                              f'{MOST_DIRECTIONS}',
                              hint="Each costs about two epochs of training; 0 is for none.")
    return directions


def _sent(value):
    """NaN is no JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value
