"""Answer texts through vLLM behind a prompt: `python experiments/serving/serve.py RUN_FOLDER --task NAME TEXT`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mpt import PromptedModel  # noqa: E402
from mpt.export.bake import embed  # noqa: E402


def serve(model: PromptedModel, texts: list[str], task: str, max_new_tokens: int, dtype: str) -> list[str]:
    """Answer texts greedily through vLLM.

    Args:
        model: The prompt and its backbone; vLLM loads the same weights once more.
        texts: The inputs, as the task's template writes them.
        task: One of the prompt's tasks.
        max_new_tokens: Longest answer.
        dtype: Of vLLM's weights, such as bfloat16.
    """
    import vllm

    server: Any = vllm.LLM(model=model.backbone.location, enable_prompt_embeds=True, dtype=dtype)
    settings = vllm.SamplingParams(temperature=0.0, max_tokens=max_new_tokens)
    requests = [{"prompt_embeds": embed(model, text, task)} for text in texts]
    return [found.outputs[0].text.strip() for found in server.generate(requests, settings)]


def main(argv: list[str] | None = None) -> int:
    """Print an answer for each text; 1 where --check finds another one than ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="run folder, prompt folder, or hf://owner/name")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--task", required=True)
    parser.add_argument("--backbone", help="folder or hub id; default: the one that the prompt names")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32", help="bfloat16 is faster, and may answer otherwise")
    parser.add_argument("--check", action="store_true", help="compare with this package's own answers")
    arguments = parser.parse_args(argv)
    model = PromptedModel.load(arguments.source, arguments.backbone)
    answers = serve(model, arguments.texts, arguments.task, arguments.max_new_tokens, arguments.dtype)
    for text, answer in zip(arguments.texts, answers, strict=True):
        print(json.dumps({"input": text, "task": arguments.task, "prediction": answer}, ensure_ascii=False))
    if not arguments.check:
        return 0
    own = model.generate(arguments.texts, arguments.task, max_new_tokens=arguments.max_new_tokens)
    for text, answer, expected in zip(arguments.texts, answers, own, strict=True):
        if answer != expected:
            print(f"error: {text!r}: vLLM answers {answer!r}, this package {expected!r}", file=sys.stderr)
    return int(answers != own)


if __name__ == "__main__":
    sys.exit(main())
