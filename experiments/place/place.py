"""Where should a prompt stand: before the encoder's input, or behind its output? `python experiments/place/place.py`.

Behind the output the encoder reads an input once for all runs and epochs. One plain prompt of 20 tokens for a task, on
the embedded backbone: what is compared is the place, not a decomposition. Each place has the same three learning rates,
of which the one with the best validation score on a seed that does not count is taken, and then six seeds.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers.modeling_outputs import BaseModelOutput  # noqa: E402

import mpt  # noqa: E402
from mpt import metrics  # noqa: E402
from mpt.backbone import load_backbone  # noqa: E402
from mpt.config import BackboneConfig, TaskConfig  # noqa: E402
from mpt.data.batches import pad  # noqa: E402
from mpt.tasks import Example, choose_rows, load_split  # noqa: E402

PLACES = ("before the input", "behind the encoder's output")
TASKS = ("mt", "feeling")
RATES = (0.03, 0.3, 1.0)
N, BATCH, STEPS, ROWS = 20, 32, 200, 200
COLUMNS = ("task", "place", "rate", "seed", "split", "score", "seconds_of_steps", "seconds_of_reading")
backbone = load_backbone(BackboneConfig(name="tiny"))
model = backbone.model


class Texts:
    """The examples of a split as the model reads them: embedded, or what the encoder makes of them.

    Args:
        examples: The split.
        place: Where the prompt will stand.
        config: The task's.
    """

    def __init__(self, examples: list[Example], place: str, config: TaskConfig) -> None:
        self.examples, self.read = examples, list[Tensor]()
        tokenization = backbone.tokenization
        self.targets, _ = tokenization.encode_targets([each.target for each in examples], config.max_target_tokens)
        ids, _ = tokenization.encode_inputs([each.input for each in examples], config.max_source_tokens)
        with torch.no_grad():
            for begin in range(0, len(ids), 128):
                part = ids[begin : begin + 128]
                padded, mask = pad(part, 0), pad([[1] * len(each) for each in part], 0)
                states = backbone.word_embeddings(padded)
                if place == PLACES[1]:
                    states = model.encoder(inputs_embeds=states, attention_mask=mask).last_hidden_state
                self.read += [row[: len(each)].clone() for row, each in zip(states, part, strict=True)]

    def batch(self, rows: list[int], prompt: Tensor, place: str) -> dict[str, Any]:
        """Put the prompt before some rows, as arguments of the model."""
        longest = max(len(self.read[row]) for row in rows)
        states, mask = torch.zeros(len(rows), longest, prompt.shape[1]), torch.zeros(len(rows), longest).long()
        for position, row in enumerate(rows):
            length = len(self.read[row])
            states[position, :length], mask[position, :length] = self.read[row], 1
        states = torch.cat([prompt.expand(len(rows), -1, -1), states], dim=1)
        mask = torch.cat([mask.new_ones(len(rows), N), mask], dim=1)
        if place == PLACES[0]:
            return {"inputs_embeds": states, "attention_mask": mask}
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": mask}


def train(texts: dict[str, Texts], place: str, rate: float, seed: int, config: TaskConfig, split: str) -> list[Any]:
    """Train a prompt and score it on a split."""
    generator = torch.Generator().manual_seed(seed)
    source = texts["train"]
    # It starts from what stands at such a place: embeddings of words, or states that the encoder gives out.
    pool = torch.cat(source.read)
    prompt = pool[torch.randint(len(pool), (N,), generator=generator)].clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([prompt], lr=rate, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    seconds = 0.0
    for _ in range(STEPS):
        rows = torch.randint(len(source.read), (BATCH,), generator=generator).tolist()
        labels = pad([source.targets[row] for row in rows], -100)
        began = time.perf_counter()
        written = model.prepare_decoder_input_ids_from_labels(labels=labels)
        logits = model(**source.batch(rows, prompt, place), decoder_input_ids=written, use_cache=False).logits
        loss: Tensor = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([prompt], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - began
    return [round(score(texts[split], prompt.detach(), place, config), 4), round(seconds, 1)]


@torch.no_grad()
def score(texts: Texts, prompt: Tensor, place: str, config: TaskConfig) -> float:
    """Answer a split, and score it by the task's first metric."""
    answers: list[str] = []
    for begin in range(0, len(texts.examples), 100):
        rows = list(range(begin, min(begin + 100, len(texts.examples))))
        asked = texts.batch(rows, prompt, place)
        written = model.generate(**asked, max_new_tokens=config.max_target_tokens, do_sample=False, num_beams=1)
        answers += backbone.tokenization.decode(written)
    references = [each.references for each in texts.examples]
    return float(metrics.score(config.metrics[:1], answers, references)["score"])


def main() -> None:
    """Tune and run every place, write the lines as they come, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    seeds = parser.parse_args().seeds
    torch.manual_seed(0)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with (results / "runs.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        for task in TASKS:
            config = mpt.compose("task=source", tasks=[task]).tasks[task]
            for place in PLACES:
                began = time.perf_counter()
                texts = {
                    split: Texts(choose_rows(load_split(task, config, split), None if split == "train" else ROWS, 0),
                                 place, config)
                    for split in ("train", "validation", "test")
                }  # fmt: skip
                reading = round(time.perf_counter() - began, 1)
                tuned = {}
                for rate in RATES:
                    found = train(texts, place, rate, 100, config, "validation")
                    tuned[rate] = found[0]
                    lines.writerow([task, place, rate, 100, "validation", *found, reading])
                rate = max(tuned, key=lambda each: tuned[each])
                scores = []
                for seed in range(seeds):
                    found = train(texts, place, rate, seed, config, "test")
                    scores.append(found[0])
                    lines.writerow([task, place, rate, seed, "test", *found, reading])
                    file.flush()
                print(task, place, f"rate {rate}", f"mean {statistics.fmean(scores):.3f}", scores, flush=True)


if __name__ == "__main__":
    main()
