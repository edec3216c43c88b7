"""Pretrain the embedded tiny T5 on the micro-world: `python experiments/pretrain_backbone/pretrain.py`."""

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from mpt.world import rows
from mpt.world.pretraining import NUM_SENTINELS, Example, stream
from mpt.world.pretraining import vocabulary as world_words
from mpt.world.tasks import SOURCE_TASKS, TARGET_TASKS, TASKS

BATCH_SIZE = 64
# Examples are sorted by length within a pool of so many batches, so that a batch has little padding.
POOL = 24
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 500
HEADLINE = ("sum", "mt", "dlg")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; the specials first and the sentinels last, as in T5."""
    words = ["<pad>", "</s>", "<unk>", *world_words()]
    sentinels = [f"<extra_id_{index}>" for index in range(NUM_SENTINELS)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, *sentinels])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def make_model(vocabulary_size: int) -> T5ForConditionalGeneration:
    """A T5 of 3 + 3 layers; without dropout, for the stream never repeats itself."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary_size,
            d_model=128,
            d_kv=32,
            d_ff=384,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, torch.Tensor]:
    """Token ids and mask, padded to the longest text: (batch, length) each."""
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def batches(examples: Iterator[Example], seed: int) -> Iterator[list[Example]]:
    """Batches of examples of similar length, in random order within a pool."""
    random = Random(seed)
    while True:
        pool = list(islice(examples, BATCH_SIZE * POOL))
        pool.sort(key=lambda example: (len(example.input.split()) // 3, len(example.target.split())))
        starts = list(range(0, len(pool), BATCH_SIZE))
        random.shuffle(starts)
        for start in starts:
            yield pool[start : start + BATCH_SIZE]


@torch.no_grad()
def exact_match(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    task: str,
    split: str,
    limit: int,
    prefixed: bool,
) -> float:
    """Share of the first rows whose greedy answer is the target, with or without the natural prefix."""
    data = rows(task, split)[:limit]
    start = f"{TASKS[task].instruction} : " if prefixed else ""
    inputs = encode(tokenizer, [start + row["text"] for row in data])
    answers = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    predictions = tokenizer.batch_decode(answers, skip_special_tokens=True)
    right = sum(text == row["target"] for text, row in zip(predictions, data, strict=True))
    return float(right) / len(data)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    return min((step + 1) / WARMUP_STEPS, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))


def pretrain(output: Path, steps: int, seed: int) -> None:
    """Train from scratch and leave weights, tokenizer, curve.csv and skills.json in ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    began, losses = time.time(), []
    with (output / "curve.csv").open("w", newline="") as file:
        curve = csv.writer(file)
        curve.writerow(["step", "seconds", "loss", *HEADLINE])
        for step, batch in enumerate(islice(batches(stream(seed), seed), steps), start=1):
            inputs = encode(tokenizer, [example.input for example in batch])
            labels = encode(tokenizer, [example.target for example in batch])
            target = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
            loss = model(**inputs, labels=target).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if step % 1000 == 0 or step == steps:
                model.eval()
                scores = [exact_match(model, tokenizer, task, "validation", 100, True) for task in HEADLINE]
                model.train()
                row = [step, round(time.time() - began), round(sum(losses) / len(losses), 4), *scores]
                curve.writerow(row)
                file.flush()
                print(*row, sep="\t", flush=True)
                losses.clear()
                model.save_pretrained(output)
                tokenizer.save_pretrained(output)
    score_skills(output)


def score_skills(folder: Path) -> None:
    """Write skills.json: exact match on the test rows of every task, with its prefix and without any."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    scores = {
        name: {
            "taught": name in SOURCE_TASKS,
            "instruction": f"{TASKS[name].instruction} :",
            "n": 500,
            "prefix": exact_match(model, tokenizer, name, "test", 500, True),
            "no_prompt": exact_match(model, tokenizer, name, "test", 500, False),
        }
        for name in [*SOURCE_TASKS, *TARGET_TASKS]
    }
    (folder / "skills.json").write_text(json.dumps(scores, indent=1) + "\n")
    for name, score in scores.items():
        print(f"{name:16} {score['prefix']:.3f} {score['no_prompt']:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/pretrain_backbone"))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pretrain(arguments.output, arguments.steps, arguments.seed)
