"""Prompt search with DSPy over a local llama.cpp server, for `cargo xtask bench-peers training`.

    python dspy_peer.py JOB.json few_shot

A job names `model`, a GGUF file, `data`, a folder with SST-2's `fit.jsonl`, and `threads`. Candidates are
prompts with demonstrations drawn by DSPy's `LabeledFewShot`; each is scored on all examples by DSPy's
`Evaluate`, and a line of JSON is printed for each. The server reads what a prompt shares with the one
before it once. Needs dspy and llama-cpp-python with its server.
"""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import job as jobs

# As in the recipe `training/prompt_search.toml`.
CANDIDATES = 4
DEMONSTRATIONS = 4


def say(**event):
    """Prints an event at once: whoever reads it looks at the clock."""
    print(json.dumps(event), flush=True)


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(job, port):
    """The server's process, once it answers."""
    command = [sys.executable, "-m", "llama_cpp.server", "--model", job["model"], "--port", str(port)]
    command += ["--n_threads", str(job["threads"]), "--n_threads_batch", str(job["threads"])]
    command += ["--n_ctx", "2048"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5)
            return server
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                raise SystemExit("the server of llama.cpp does not start")
            time.sleep(0.1)
    server.kill()
    raise SystemExit("the server of llama.cpp does not answer")


def search(job, port):
    """Scores the candidates."""
    import dspy
    import llama_cpp

    class Sentiment(dspy.Signature):
        """Classify the sentiment of the movie review."""

        review: str = dspy.InputField()
        sentiment: str = dspy.OutputField(desc="positive or negative")

    lm = dspy.LM(
        "openai/local",
        api_base=f"http://127.0.0.1:{port}/v1",
        api_key="none",
        cache=False,
        temperature=0.0,
        num_retries=0,
        # DSPy's own `max_tokens` goes out under a name that the server does not know: answers would go
        # on to the end of the context.
        extra_body={"max_tokens": 24},
        stop=["[[ ## completed ## ]]"],
    )
    # A second question in another format, where an answer has none of the first, would read a whole
    # other prompt and take the place of the prefix that is kept.
    dspy.configure(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False))
    lines = pathlib.Path(f"{job['data']}/fit.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    examples = [
        dspy.Example(review=row["text"], sentiment=row["label"]).with_inputs("review")
        for row in rows
    ]

    def is_right(example, answer, trace=None):
        return example.sentiment in str(answer.sentiment).lower()

    evaluate = dspy.Evaluate(
        devset=examples,
        metric=is_right,
        num_threads=1,
        display_progress=False,
        max_errors=len(examples) * CANDIDATES,
        provide_traceback=False,
    )
    say(event="stage_began")
    for candidate in range(CANDIDATES):
        shown = random.Random(candidate).sample(examples, len(examples))
        few_shot = dspy.LabeledFewShot(k=DEMONSTRATIONS)
        program = few_shot.compile(dspy.Predict(Sentiment), trainset=shown)
        score = evaluate(program).score
        say(event="trial", sample=len(examples), accuracy=score / 100)
    versions = {"dspy": dspy.__version__, "llama-cpp-python": llama_cpp.__version__}
    say(event="report", versions=versions)


def main():
    """Serves and searches."""
    job = jobs.read()
    # No prices of other people's models are fetched.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    # Ended from outside, it ends the server as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    port = free_port()
    server = serve(job, port)
    try:
        search(job, port)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
