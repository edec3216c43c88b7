"""First values of a prompt: from text, from the vocabulary, near one, or from a trained source prompt.

Shape legend: T tasks, G groups, N virtual tokens, R ranks, D token_dim.
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer

Tokenizer = Callable[[str], Mapping[str, Any]]
"""Whatever gives a mapping with ``input_ids`` for a text, as the tokenizers of transformers do."""


def open_tokenizer(name_or_path: str, options: Mapping[str, Any] | None) -> Tokenizer:
    """Open the tokenizer that a config names; code from the hub is never run.

    Raises:
        ValueError: There is no such tokenizer.
    """
    allowed = {key: value for key, value in (options or {}).items() if key != "trust_remote_code"}
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(name_or_path, **allowed)
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer_name_or_path: no tokenizer at {name_or_path!r} ({error})") from error
    return tokenizer


def embed_text(
    text: str, tokenizer: Tokenizer, num_virtual_tokens: int, word_embeddings: nn.Module
) -> Tensor:
    """Give the embeddings of a text's tokens, repeated or cut to the prompt's length.

    The ids are the tokenizer's own, special tokens included, as in PEFT.

    Returns:
        float32, shape ``(N, D)``.

    Raises:
        ValueError: The text is empty.
    """
    ids = list(tokenizer(text)["input_ids"]) if text.strip() else []
    if not ids:
        raise ValueError(f"prompt_tuning_init_text: {text!r} has no tokens; give a text that says the task")
    repeated = (ids * (num_virtual_tokens // len(ids) + 1))[:num_virtual_tokens]
    return _embed(torch.tensor(repeated), word_embeddings)


def sample_vocabulary(count: int, word_embeddings: nn.Embedding) -> Tensor:
    """Give the embeddings of tokens drawn from the whole vocabulary, each as likely as the next.

    Returns:
        float32, shape ``(count, D)``.
    """
    return _embed(torch.randint(0, word_embeddings.num_embeddings, (count,)), word_embeddings)


@torch.no_grad()
def _embed(ids: Tensor, word_embeddings: nn.Module) -> Tensor:
    # The module is called, not indexed: some scale what they look up.
    device = next(word_embeddings.parameters()).device
    embedded: Tensor = word_embeddings(ids.to(device))
    return embedded.detach().clone().to("cpu", torch.float32)


def start_factors(
    shape: tuple[int, int, int, int], form: str, factor_init: str, factor_std: float
) -> tuple[Tensor, Tensor]:
    """Draw the cols and rows that tasks start with.

    Under ``normal``, and in the residual and additive forms always, all numbers come from N(0, factor_std^2). Under
    ``ones`` the first rank is 1 throughout and the other ranks are drawn, so that W is 1 plus noise.

    Args:
        shape: T, N, R and D.
        form: product, residual or additive.
        factor_init: normal or ones.
        factor_std: Standard deviation of the noise.

    Returns:
        cols ``(T, N, R)`` and rows ``(T, R, D)``.
    """
    T, N, R, D = shape
    cols = torch.normal(0.0, factor_std, (T, N, R))
    rows = torch.normal(0.0, factor_std, (T, R, D))
    if factor_init == "ones" and form == "product":
        cols[:, :, 0] = 1.0
        rows[:, 0, :] = 1.0
    return cols, rows


def compose(form: str, shared: Tensor, product: Tensor) -> Tensor:
    """Put a task's prompt together: of P and ``cols @ rows``, both ``(..., N, D)``."""
    if form == "additive":
        return shared + product
    return shared * (product if form == "product" else 1 + product)


def as_product(cols: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Write ``1 + cols @ rows`` as a product of one rank more: a last column and a last row of ones.

    Args:
        cols: ``(T, N, R)``.
        rows: ``(T, R, D)``.

    Returns:
        cols ``(T, N, R + 1)`` and rows ``(T, R + 1, D)``.
    """
    return (
        torch.cat([cols, torch.ones_like(cols[:, :, :1])], dim=2),
        torch.cat([rows, torch.ones_like(rows[:, :1, :])], dim=1),
    )


def as_residual(cols: Tensor, rows: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Undo :func:`as_product`.

    Raises:
        ValueError: The last column or the last row is not all ones.
    """
    if cols.shape[2] < 2 or not ((cols[:, :, -1] == 1).all() and (rows[:, -1, :] == 1).all()):
        raise ValueError(
            f"{where}: the factors are a product, not 1 plus a product; start form=product from them, "
            "or train the source with form=residual"
        )
    return cols[:, :, :-1].contiguous(), rows[:, :-1, :].contiguous()


@dataclass(frozen=True)
class Source:
    """A trained prompt to start from.

    Attributes:
        where: What to call it in an error.
        form: product, residual, additive, none or shared.
        prompts: The groups of P, ``(G, N, D)``.
        task_groups: Group of each task, ``(T,)``.
        cols: ``(T, N, R)``; None where the form has no factors.
        rows: ``(T, R, D)``; None where the form has no factors.
    """

    where: str
    form: str
    prompts: Tensor
    task_groups: Tensor
    cols: Tensor | None = None
    rows: Tensor | None = None

    def shared(self) -> Tensor:
        """P, shape ``(N, D)``.

        Raises:
            ValueError: The source has several groups.
        """
        if len(self.prompts) != 1:
            raise ValueError(
                f"{self.where}: has {len(self.prompts)} groups of P, so no one shared prompt; "
                "use EXACT_SOURCE_TASK"
            )
        return self.prompts[0]

    def effective(self) -> Tensor:
        """The whole prompt of each task, ``P * W``, shape ``(T, N, D)``."""
        prompts = self.prompts[self.task_groups]
        if self.cols is None or self.rows is None:
            return prompts
        return compose(self.form, prompts, self.cols @ self.rows)


def from_file(path: str | Path, num_virtual_tokens: int, form: str, shared_only: bool) -> Source:
    """Read a source prompt from PEFT's tensors.

    Args:
        path: ``adapter_model.safetensors``, or a file of ``torch.save``.
        num_virtual_tokens: N that the target has.
        form: The target's; a residual one takes the factors apart as :func:`as_product` wrote them.
        shared_only: Only P is wanted, so the factors may be missing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A tensor is missing or has another shape.
    """
    tensors = read_tensors(path)
    wanted = (
        ["prompt_embeddings"]
        if shared_only
        else ["prompt_embeddings", "prefix_task_cols", "prefix_task_rows"]
    )
    shared, cols, rows = check_tensors(tensors, wanted, str(path))
    if len(shared) != num_virtual_tokens:
        raise ValueError(
            f"{path}: prompt_embeddings has shape {tuple(shared.shape)}, {len(shared)} tokens; "
            f"it must have num_virtual_tokens={num_virtual_tokens}"
        )
    if cols is None or rows is None:
        return Source(str(path), "none", shared[None], torch.zeros(1, dtype=torch.long))
    kept = "product"
    if form == "residual" and not shared_only:
        kept, (cols, rows) = form, as_residual(cols, rows, str(path))
    return Source(str(path), kept, shared[None], torch.zeros(len(cols), dtype=torch.long), cols, rows)


def factorize(product: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Find the cols and rows whose product is nearest to a given one (Eckart and Young 1936).

    Where the product has a lower rank than R, the columns that are left over are zero and their rows ``fresh``: they
    change nothing, and can learn, which a zero column on a zero row could not.

    Args:
        product: ``(T, N, D)``.
        fresh: Rows as drawn, ``(T, R, D)``.

    Returns:
        cols ``(T, N, R)`` and rows ``(T, R, D)``; the same for every way to write ``product``.
    """
    R = fresh.shape[1]
    left, values, right = torch.linalg.svd(product.double(), full_matrices=False)  # T N K, T K, T K D
    kept = min(R, values.shape[1])
    left, values, right = left[:, :, :kept], values[:, :kept], right[:, :kept]
    used = values > 1e-6 * values[:, :1]
    cols = product.new_zeros(len(product), product.shape[1], R)
    rows = fresh.clone()
    root = values.sqrt()
    cols[:, :, :kept] = torch.where(used[:, None, :], left * root[:, None, :], 0.0).float()
    rows[:, :kept] = torch.where(used[:, :, None], right * root[:, :, None], rows[:, :kept].double()).float()
    return cols, rows


def fit_rank(cols: Tensor, rows: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Write factors in another rank: padded without a change of the product, or cut to the nearest one.

    Args:
        cols: ``(T, N, K)``.
        rows: ``(T, K, D)``.
        fresh: Rows as drawn, ``(T, R, D)``; those beyond K stay, on columns of zeros.

    Returns:
        cols ``(T, N, R)`` and rows ``(T, R, D)``.
    """
    K, R = rows.shape[1], fresh.shape[1]
    if K > R:
        return factorize(cols @ rows, fresh)
    padding = cols.new_zeros(len(cols), cols.shape[1], R - K)
    return torch.cat([cols, padding], dim=2), torch.cat([rows, fresh[:, K:]], dim=1)


def from_source(
    init: str, source: Source, weights: Tensor | None, form: str, fresh: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Choose the start of targets from a source.

    Between prompts with factors, P is the source's, and the factors are

    - ONLY_SOURCE_SHARED: fresh;
    - AVERAGE_SOURCE_TASKS: the mean of all cols and the mean of all rows (Wang et al. 2023 and PEFT), which
      depends on how each W is written: ``cols @ rows = (-cols) @ (-rows)``;
    - AVERAGE_PRODUCT: those nearest to the mean of all W;
    - EXACT_SOURCE_TASK, NEAREST_SOURCE_TASK, WEIGHTED_SOURCE_TASKS: those nearest to the mixture of W that
      ``weights`` says; of a single task its own.

    A plain prompt, on either side, stands for the whole prompt ``P * W`` of a task, and it is these that are mixed.

    Args:
        init: One of the above.
        source: Where to start from, of S tasks.
        weights: Parts of the source tasks in each target, ``(T, S)``, each row summing to 1; None for the first three.
        form: The targets' form.
        fresh: The targets' rows as drawn, ``(T, R, D)``; None where the targets' form has no factors.

    Returns:
        P ``(N, D)`` (of plain targets ``(T, N, D)``), cols ``(T, N, R)`` and rows ``(T, R, D)``; the last two are None
        where the factors stay fresh.

    Raises:
        ValueError: The source does not have what the init takes, or the average is a start that cannot learn.
    """
    if init == "ONLY_SOURCE_SHARED":
        return source.shared(), None, None
    S = len(source.task_groups)
    if weights is None:
        weights = torch.full((1, S), 1 / S)
    if source.cols is None or source.rows is None or fresh is None:
        mixed = torch.einsum("ts,snd->tnd", weights, source.effective())
        return (mixed if form == "none" else _one_of(mixed, source.where)), None, None
    if source.form != form:
        raise ValueError(
            f"{source.where}: its form is {source.form!r}, the target's {form!r}; give both the same"
        )
    if fresh.shape[2] != source.rows.shape[2]:
        raise ValueError(
            f"{source.where}: has token_dim {source.rows.shape[2]}, the target {fresh.shape[2]}; give both the same"
        )
    if init == "AVERAGE_SOURCE_TASKS":
        cols, rows = source.cols.mean(0, keepdim=True), source.rows.mean(0, keepdim=True)
        if not cols.any() and not rows.any():
            raise ValueError(
                f"{source.where}: the factors of its tasks average to exactly 0, where every gradient is 0; "
                "use AVERAGE_PRODUCT, EXACT_SOURCE_TASK or ONLY_SOURCE_SHARED"
            )
        return source.shared(), *fit_rank(
            cols.expand(len(fresh), -1, -1), rows.expand(len(fresh), -1, -1), fresh
        )
    weights = weights.expand(len(fresh), S)
    single, alone = weights.amax(1) == 1.0, weights.argmax(1)
    groups = source.task_groups[alone]
    shared = source.prompts[groups[0]] if (single & (groups == groups[0])).all() else source.shared()
    cols, rows = factorize(torch.einsum("ts,snd->tnd", weights, source.cols @ source.rows), fresh)
    own_cols, own_rows = fit_rank(source.cols[alone], source.rows[alone], fresh)
    return (
        shared,
        torch.where(single[:, None, None], own_cols, cols),
        torch.where(single[:, None, None], own_rows, rows),
    )


def _one_of(prompts: Tensor, where: str) -> Tensor:
    """The one P ``(N, D)`` of several targets, which can only share what is the same for all, ``(T, N, D)``."""
    if not (prompts == prompts[:1]).all():
        raise ValueError(
            f"{where}: its plain prompts give each target another P, and the targets share one; adapt them one by one, "
            "or with form=none"
        )
    return prompts[0]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file, safetensors or ``torch.save``, without running anything that it holds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the adapter_model.safetensors of a saved prompt")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: not a file of tensors ({reason}); give one that a run has written"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path}: holds {type(tensors).__name__}, not named tensors; give a state dict")
    return tensors


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: list[str], where: str
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Check that PEFT's tensors are there and fit each other.

    Args:
        tensors: ``prompt_embeddings (N, D)``, ``prefix_task_cols (T, N, R)``, ``prefix_task_rows (T, R, D)``.
        wanted: Those of them that must be there.
        where: What to call their file in an error.

    Returns:
        The three as float32; None in the place of factors that are not wanted.

    Raises:
        ValueError: One is missing, or a shape is wrong.
    """
    if missing := [name for name in wanted if name not in tensors]:
        raise ValueError(
            f"{where}: no tensor {', '.join(missing)}; it holds {', '.join(sorted(tensors)) or 'none'}"
        )
    shared = tensors["prompt_embeddings"]
    if shared.dim() != 2:
        raise ValueError(f"{where}: prompt_embeddings has shape {tuple(shared.shape)}; it must be (N, D)")
    if len(wanted) == 1:
        return shared.float(), None, None
    cols, rows = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
    (N, D), fits = shared.shape, cols.dim() == rows.dim() == 3
    if (
        not fits
        or cols.shape[:2] != (len(rows), N)
        or rows.shape[1:] != (cols.shape[2], D)
        or 0 in cols.shape
    ):
        raise ValueError(
            f"{where}: prefix_task_cols has shape {tuple(cols.shape)}, prefix_task_rows {tuple(rows.shape)}; "
            f"with prompt_embeddings {tuple(shared.shape)} they must be (T, {N}, R) and (T, R, {D})"
        )
    return shared.float(), cols.float(), rows.float()
