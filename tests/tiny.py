"""Tiny models of both families and a short training; tests vary them with `replace`."""

from dataclasses import replace

from nanogpt.config import GPTConfig, OptimConfig, TrainConfig

GPT2 = GPTConfig(
    vocab_size=50,  # padded to 64
    block_size=16,
    n_layer=2,
    n_head=2,
    n_embd=32,
    dropout=0.0,
    bias=True,
    position="learned",
    norm="layernorm",
    activation="gelu",
    qk_norm=False,
    zero_init_proj=False,
    tie_weights=True,
    logit_softcap=0.0,
)
MODERN = replace(
    GPT2,
    bias=False,
    position="rotary",
    norm="rmsnorm",
    activation="relu2",
    qk_norm=True,
    zero_init_proj=True,
    tie_weights=False,
    logit_softcap=15.0,
)

ADAMW = OptimConfig(  # a short warm-up and a cosine
    optimizer="adamw",
    learning_rate=3e-3,
    muon_learning_rate=0.02,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    grad_clip=1.0,
    schedule="cosine",
    warmup_steps=2,
    decay_steps=8,
    min_lr_ratio=0.1,
)
PLAN = TrainConfig(
    optim=ADAMW,
    batch_tokens=128,
    max_steps=10,
    eval_interval=4,
    eval_tokens=64,
    non_finite="stop",
    seed=7,
)
