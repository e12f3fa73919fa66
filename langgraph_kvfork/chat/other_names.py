"""Arguments of other chat models and programs, and what they are here: docs/migration.md."""

from __future__ import annotations

_NO_SERVER = "the model runs in this process, there is no server to talk to"
_GONE = "llama.cpp has it no more"
_CHAT = "it belongs to text completion, and this is a chat model"

OTHER_NAMES = {
    # ChatLlamaCpp of langchain-community
    "client": "the model is loaded when it is first used; `llm.engine` loads it at once",
    "lora_base": "llama.cpp has it no more; lora_path works with quantized models too",
    "n_parts": _GONE,
    "f16_kv": "type_k and type_v choose the types of the cache, f16 by default",
    "logits_all": "logprobs=True gives log-probabilities, top_logprobs how many",
    "vocab_only": "get_num_tokens and profile need no such model",
    "suffix": _CHAT,
    "echo": _CHAT,
    "model_kwargs": "pass what is in it as arguments",
    "grammar_path": "grammar=Path(...).read_text() is the same",
    # ChatOllama of langchain-ollama
    "model": "model_path takes a GGUF file; from_pretrained downloads one",
    "validate_model_on_init": "`llm.engine` loads the model at once and says what is wrong",
    "mirostat": "temperature and min_p are what there is instead",
    "mirostat_eta": "temperature and min_p are what there is instead",
    "mirostat_tau": "temperature and min_p are what there is instead",
    "num_ctx": "it is n_ctx here",
    "num_gpu": "it is n_gpu_layers here",
    "num_thread": "it is n_threads here",
    "num_predict": "it is max_tokens here",
    "repeat_last_n": "it is last_n_tokens_size here",
    "tfs_z": _GONE,
    "format": "with_structured_output gives answers a schema",
    "base_url": _NO_SERVER,
    "client_kwargs": _NO_SERVER,
    "async_client_kwargs": _NO_SERVER,
    "sync_client_kwargs": _NO_SERVER,
    # elsewhere, where no name here is alike, or the wrong one
    "context_size": "it is n_ctx here",
    "context_length": "it is n_ctx here",
    "context_window": "it is n_ctx here",
    "ctx_size": "it is n_ctx here",
    "max_model_len": "it is n_ctx here",
    "n_predict": "it is max_tokens here",
    "batch_size": "it is n_batch here",
    "n_parallel": "it is n_seq_max here, and need not be given",
    "max_num_seqs": "it is n_seq_max here, and need not be given",
    "cache_prompt": "it is share_prefix here, and on by default",
    "think": "it is reasoning here, and on by default",
    "tools": "bind_tools binds them",
    "tool_choice": "bind_tools binds it",
    "response_format": "with_structured_output binds a schema",
    "system_prompt": 'begin the messages with ("system", ...)',
    "repo_id": "from_pretrained downloads a model",
    "n": "ForkNode(llm, n=...) gives several answers",
}
"""What to say to somebody who gives one of these, by its name."""
