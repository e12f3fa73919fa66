"""A LoRA adapter changes what the model computes, as much as its scale says."""

import gguf
import numpy as np
import pytest

from langgraph_kvfork import ChatKVFork, ModelLoadError, Request

PROMPT = "The quick brown fox"
N_EMBD = 576
"""SmolLM2's, in and out of the matrix that the adapter adds to."""


def write_lora(path, *, arch="llama", n_embd=N_EMBD, rank=4):
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for side, shape in (("a", (rank, n_embd)), ("b", (n_embd, rank))):
        data = rng.normal(scale=0.2, size=shape).astype(np.float32)
        writer.add_tensor(f"blk.0.attn_output.weight.lora_{side}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return write_lora(tmp_path_factory.mktemp("lora") / "lora.gguf")


def logits(**params):
    with ChatKVFork(n_ctx=256, **params).engine as engine:
        request = Request(max_tokens=1, temperature=0, logprobs=50)
        (token,) = [e for e in engine.generate(PROMPT, request) if hasattr(e, "token")]
    return {p.token: p.logit for p in token.logprobs}


def test_it_changes_the_logits_and_with_scale_0_it_does_not(lora):
    plain = logits()
    assert logits(lora_path=lora, lora_scale=0) == plain
    full, half = logits(lora_path=lora), logits(lora_path=lora, lora_scale=0.5)
    for one, other in ((full, plain), (half, plain), (full, half)):
        common = one.keys() & other.keys()
        assert common
        assert all(one[token] != other[token] for token in common)


def test_models_with_and_without_it_are_engines_of_their_own(lora):
    plain = ChatKVFork(n_ctx=256)
    # so much of it that no text survives
    adapted = ChatKVFork(n_ctx=256, lora_path=lora, lora_scale=8)
    with plain.engine as one, adapted.engine as other:
        assert one is not other
        assert ChatKVFork(n_ctx=256, lora_path=lora, lora_scale=8).engine is other
        texts = [m.invoke("Say hello.", temperature=0, max_tokens=8).text for m in (plain, adapted)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"arch": "qwen2"}, "arch mismatch"), ({"n_embd": 32}, r"attn_output.*shape|shape.*attn")],
)
def test_one_for_another_model_is_refused_in_words(tmp_path, options, message):
    path = write_lora(tmp_path / "foreign.gguf", **options)
    with pytest.raises(ModelLoadError, match=rf"lora_path=.*foreign.*{message}"):
        ChatKVFork(n_ctx=256, lora_path=path).invoke("Hello")


def test_a_file_that_is_missing_or_no_adapter_is_refused_in_words(tmp_path):
    llm = ChatKVFork(n_ctx=256, lora_path=str(tmp_path / "missing.gguf"))
    with pytest.raises(ModelLoadError, match=r"lora_path=.*missing.* does not exist"):
        llm.invoke("Hello")
    (tmp_path / "x.gguf").write_bytes(b"nonsense")
    with pytest.raises(ModelLoadError, match=r"lora_path=.*is not a GGUF file"):
        ChatKVFork(n_ctx=256, lora_path=str(tmp_path / "x.gguf")).invoke("Hello")
