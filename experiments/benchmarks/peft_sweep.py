"""The same sweep in a plain loop around PEFT's multitask prompt tuning: `peft_sweep.py SOURCE DRAWS STEPS`."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

os.environ["HF_HUB_OFFLINE"] = "1"

import peft  # noqa: E402
import torch  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer  # noqa: E402

from mpt import metrics  # noqa: E402
from mpt.backbone import TINY  # noqa: E402
from mpt.cli.compose import CONF, register_schema, typed  # noqa: E402
from mpt.cli.hydra_versions import VERSION_BASE  # noqa: E402
from mpt.config import FewShotConfig, TaskConfig  # noqa: E402
from mpt.data.batches import pad  # noqa: E402
from mpt.data.few_shot import draw_examples  # noqa: E402
from mpt.tasks import Example, load_split  # noqa: E402

TASK, BATCH = "reply_polite", 32


def generate(model: peft.PeftModel, tokenizer: AutoTokenizer, examples: list[Example]) -> list[str]:
    """Answer examples in batches of 128."""
    texts: list[str] = []
    for begin in range(0, len(examples), 128):
        part = [example.input for example in examples[begin : begin + 128]]
        inputs = tokenizer(part, padding=True, return_tensors="pt")
        ids = torch.zeros(len(part), dtype=torch.long)
        answers = model.generate(**inputs, task_ids=ids, max_new_tokens=24, do_sample=False)
        texts += tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [text.strip() for text in texts]


def train(source: Path, config: TaskConfig, k: int, seed: int, steps: int, tokenizer: AutoTokenizer) -> float:
    """Train one job from the source's average, with validations every 20 steps and tests before and after."""
    torch.manual_seed(seed)
    prompt = peft.MultitaskPromptTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=20,
        num_transformer_submodules=1,
        prompt_tuning_init=peft.MultitaskPromptTuningInit.AVERAGE_SOURCE_TASKS,
        prompt_tuning_init_state_dict_path=str(source / "prompt" / "adapter_model.safetensors"),
    )
    model = peft.get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(TINY), prompt)
    rows = draw_examples(TASK, load_split(TASK, config, "train", None), FewShotConfig(k, seed))
    test = load_split(TASK, config, "test", None)[:100]
    groups = [
        {"params": [model.prompt_encoder["default"].embedding.weight], "lr": 0.3},
        {"params": [p for n, p in model.named_parameters() if "prefix_task" in n], "lr": 0.4},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    order: list[Example] = []
    generate(model.eval(), tokenizer, test)
    for step in range(steps):
        while len(order) < BATCH:
            order += [rows["train"][i] for i in torch.randperm(k).tolist()]
        batch, order = order[:BATCH], order[BATCH:]
        inputs = tokenizer([example.input for example in batch], padding=True, return_tensors="pt")
        labels = pad([tokenizer(example.target)["input_ids"] for example in batch], -100)
        model.train()
        loss = model(**inputs, labels=labels, task_ids=torch.zeros(BATCH, dtype=torch.long)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 20 == 0:
            generate(model.eval(), tokenizer, rows["validation"])
    answers = generate(model.eval(), tokenizer, test)
    found = metrics.score(["exact_match"], answers, [example.references for example in test])
    return float(found["score"])


def main() -> None:
    """Run every job of the grid, one after the other."""
    source, draws, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    register_schema()
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        config = typed(compose("train", [f"tasks=[{TASK}]"])).tasks[TASK]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    for k in (4, 16, 32):
        for seed in range(draws):
            print(k, seed, train(source, config, k, seed, steps, tokenizer), flush=True)


if __name__ == "__main__":
    main()
