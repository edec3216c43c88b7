"""The model ``mpt`` of lm-evaluation-harness: a frozen backbone under the trained prompt of one task.

A program registers it by importing this module. The harness writes the inputs: what its ``doc_to_text`` gives has to be
an input as the run's own template writes it, and the prompt of ``task`` is put before it. A continuation is scored with
its end token, as targets are trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from mpt.answering.prompted import PromptedModel
from mpt.errors import UserError, unknown

PASSED_ON = ("do_sample", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty", "length_penalty")
"""Arguments of ``generate`` that a task of the harness may set."""


@register_model("mpt")
class PromptedLM(LM):  # type: ignore[misc]  # the harness has no types
    """A frozen backbone under the prompt of one task.

    Args:
        prompt: A run folder, or whatever :meth:`mpt.PromptedModel.load` takes.
        task: Whose prompt answers; None: the only one that there is.
        backbone: A folder or hub id; None: the one that the prompt names.
        dtype: The backbone's: float32, bfloat16 or float16.
        device: Device of both; None, and the harness's ``cuda`` where there is none: the CPU.
        batch_size: Requests at a time; ``auto`` is the default.
        max_batch_size: Taken from the harness, and the most that ``batch_size`` may be.

    Raises:
        UserError: There is no such task, or several and none is named.
        FileNotFoundError: There is no prompt, or no backbone.
    """

    def __init__(
        self,
        prompt: str,
        task: str | None = None,
        backbone: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int | str = 32,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
            device = "cpu"
        self.model = PromptedModel.load(prompt, backbone, dtype=dtype, device=device)
        names = self.model.task_names
        if task is None and len(names) > 1:
            raise UserError(f"task: is missing, and {prompt} has several; add task= one of {', '.join(names)}")
        if task is not None and task not in names:
            raise UserError(unknown("task", task, names))
        self.task = task or names[0]
        wanted = 32 if str(batch_size).startswith("auto") else int(batch_size)
        self.batch_size = min(wanted, max_batch_size or wanted)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Score continuations: the log likelihood of each with its end, in nats, and whether it is the greedy answer.

        Raises:
            UserError: A context is empty, and the model reads one.
        """
        found = self.model.likelihoods(
            [each.args[0] for each in requests],
            [each.args[1].strip() for each in requests],  # the space before a word is the tokenization's to write
            self.task,
            batch_size=self.batch_size,
        )
        return [(each.total, each.is_greedy) for each in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Refuse: a prompt is trained to answer an input, and a text by itself has none.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{requests[0].task_name}: asks for the likelihood of whole texts, and a prompt answers inputs; "
            "choose tasks whose output_type is multiple_choice, loglikelihood or generate_until"
        )

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer contexts, those with the same settings together; what a task stops at ends an answer."""
        alike: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(place)
        found = [""] * len(requests)
        for places in alike.values():
            settings = requests[places[0]].args[1]
            answers = self.model.generate(
                [requests[place].args[0] for place in places],
                self.task,
                batch_size=self.batch_size,
                max_new_tokens=settings.get("max_gen_toks"),
                **{key: settings[key] for key in PASSED_ON if key in settings and _counts(key, settings)},
            )
            for place, answer in zip(places, answers, strict=True):
                found[place] = cut(answer, settings.get("until") or [])
        return found


def cut(answer: str, until: str | Sequence[str]) -> str:
    """Cut an answer at the first of the texts that end it."""
    for end in [until] if isinstance(until, str) else until:
        answer = answer.split(end)[0] if end else answer
    return answer


def _counts(key: str, settings: Mapping[str, Any]) -> bool:
    """Tell whether a setting counts: the temperature of an answer that is not sampled does not."""
    return bool(settings.get("do_sample")) or key not in ("temperature", "top_k", "top_p")
