"""Text generation with a trained model: the one way from a prompt to its continuation.

Texts are generated in batches; which texts share a batch changes none of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.generation.params import GenerationParams

if TYPE_CHECKING:
    import torch

    from nanogpt.config import GPTConfig
    from nanogpt.model.gpt import GPT
    from stages.tokenizers.tokenizer import Tokenizer

CACHE_BYTES = 1 << 30  # memory for the KV caches and tokens of one batch


def open_model(folder: Path, device: "torch.device") -> tuple["GPT", "Tokenizer"]:
    """Load a model for generation, in float32, and its tokenizer."""
    import torch

    from nanogpt.generate.gemv import decoding_copy
    from nanogpt.model.files import load_model
    from nanogpt.runtime import Runtime
    from stages.tokenizers.tokenizer import load_tokenizer

    runtime = Runtime(device=device, dtype=torch.float32)
    model = decoding_copy(load_model(folder, runtime.device), runtime)
    return model, load_tokenizer(folder / "tokenizer")


def complete_prompts(
    prompts: Sequence[str],
    seeds: Sequence[int],
    params: GenerationParams,
    model: "GPT",
    tokenizer: "Tokenizer",
) -> list[str]:
    """Return the text that follows each prompt, up to its end or to the first stop string."""
    import torch

    from nanogpt.generate.decode import generate

    # A prompt is the beginning of a document, and documents follow an end-of-text token.
    contexts = [[tokenizer.eot_token, *tokenizer.encode(prompt).tolist()] for prompt in prompts]
    steps = generate(
        model,
        [torch.tensor(context) for context in contexts],
        params.max_new_tokens,
        sampling=params.sampling(),
        seeds=seeds,
        stop_tokens=[tokenizer.eot_token],
    )
    rows: list[list[int]] = [[] for _ in prompts]  # of new tokens
    unfinished = set(range(len(prompts)))
    for tokens in steps:
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        unfinished -= {i for i in unfinished if stopped(rows[i], params.stop, tokenizer)}
        if not unfinished:
            break
    texts = [tokenizer.decode(tokens_before(row, tokenizer.eot_token)) for row in rows]
    return [text_before(text, params.stop) for text in texts]


def stopped(tokens: Sequence[int], stop: Sequence[str], tokenizer: "Tokenizer") -> bool:
    """Return whether the last token ends the text or completes a stop string."""
    longest = max((len(string.encode()) for string in stop), default=0)
    tail = tokenizer.decode(tokens[-longest:]) if longest else ""  # a token has at least one byte
    return tokens[-1] == tokenizer.eot_token or any(string in tail for string in stop)


def tokens_before(tokens: list[int], end: int) -> list[int]:
    """Return the tokens before the first `end`, or all if it is not among them."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def text_before(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop string, or all of it if it has none."""
    return text[: min((text.index(string) for string in stop if string in text), default=None)]


def rows_per_batch(config: "GPTConfig", max_new_tokens: int) -> int:
    """Return how many texts fit in CACHE_BYTES: keys and values in float32, tokens in int64."""
    cached = config.n_layer * 2 * config.block_size * config.n_embd * 4
    return max(1, CACHE_BYTES // (cached + max_new_tokens * 8))


def generate_texts(
    prompts: Sequence[str], params: GenerationParams, folder: Path, *, number: int, device: str
) -> list[dict[str, Any]]:
    """Generate `number` texts for each prompt, those of the first prompt first.

    Raises ValueError if a prompt has characters that the model's tokenizer does not know.
    """
    from nanogpt.rng import mix
    from nanogpt.runtime import choose_device

    model, tokenizer = open_model(folder, choose_device(device))
    rows = [(prompt, i) for prompt in prompts for i in range(number)]
    seeds = [mix(params.seed, i) for _, i in rows]
    texts, size = [], rows_per_batch(model.config, params.max_new_tokens)
    for first in range(0, len(rows), size):
        batch = slice(first, first + size)
        batch_prompts = [prompt for prompt, _ in rows[batch]]
        texts += complete_prompts(batch_prompts, seeds[batch], params, model, tokenizer)
    return [
        {"prompt": prompt, "number": i, "text": text}
        for (prompt, i), text in zip(rows, texts, strict=True)
    ]


def format_samples(samples: Sequence[dict[str, Any]]) -> str:
    """Return the samples as one text, each after its prompt, with a rule between them."""
    rule = "\n" + "-" * 72 + "\n\n"
    return rule.join(f"{sample['prompt']}{sample['text']}\n" for sample in samples)
