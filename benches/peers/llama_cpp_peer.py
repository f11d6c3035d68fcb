"""Decoding with llama.cpp, for `cargo xtask bench-peers decoding`.

    python llama_cpp_peer.py JOB.json

Does the job that `hybrid.rs` beside this file describes and prints what it took: the GGUF file is
mapped, and the rows of a batch are decoded together. Needs llama-cpp-python, of which only the
bindings of llama.cpp's C functions are used.
"""

import ctypes

import llama_cpp
import numpy

import job as jobs


@llama_cpp.llama_log_callback
def ignore(_level, _text, _data):
    """Keeps llama.cpp's notes off the standard error."""


class Context:
    """A model with a key-value cache for one or more rows."""

    def __init__(self, model, rows, length, threads):
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = rows * length
        settings.n_batch = settings.n_ubatch = 512
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = threads
        self.inner = llama_cpp.llama_init_from_model(model, settings)
        if not self.inner:
            raise SystemExit("llama.cpp gives no context")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.length = 0

    def __del__(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.inner)

    def read(self, rows):
        """Reads as many tokens of each row; the best token after the last of each."""
        length = len(rows[0])
        last, n = [], 0
        for row, ids in enumerate(rows):
            for place, token in enumerate(ids):
                self.batch.token[n] = token
                self.batch.pos[n] = self.length + place
                self.batch.n_seq_id[n] = 1
                self.batch.seq_id[n][0] = row
                self.batch.logits[n] = place + 1 == length
                n += 1
            last.append(n - 1)
        self.batch.n_tokens = n
        if llama_cpp.llama_decode(self.inner, self.batch) != 0:
            raise SystemExit("llama.cpp cannot decode")
        self.length += length
        return [self.best(place) for place in last]

    def best(self, place):
        """The best token by the logits of a place."""
        logits = llama_cpp.llama_get_logits_ith(self.inner, place)
        values = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * self.vocab)).contents
        return int(numpy.frombuffer(values, numpy.float32).argmax())


def load(path):
    """The model of a mapped file."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        path.encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    return model


def write_rest(context, tokens, n):
    """`n` more tokens of each row."""
    written = []
    for _ in range(n):
        tokens = context.read([[token] for token in tokens])
        written.append(tokens)
    return list(zip(*written))


def main():
    """Measures."""
    job = jobs.read()
    llama_cpp.llama_log_set(ignore, None)

    def begin(model, rows, length):
        return Context(model, rows, length, job["threads"])

    versions = {"llama-cpp-python": llama_cpp.__version__}
    path = job["model"]
    jobs.measure(job, versions, lambda: load(path), begin, Context.read, write_rest)


if __name__ == "__main__":
    main()
