"""What the peers' scripts share: the job they are given and the figures they print.

`hybrid.rs` beside this file describes a job.
"""

import json
import sys
import time


def read():
    """The job that the command line names."""
    with open(sys.argv[1], encoding="utf-8") as file:
        return json.load(file)


def timed(work, *arguments):
    """The result of `work` and the seconds it took."""
    start = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - start


def peak_rss_mb():
    """Largest resident memory of this process in MB (10^6 bytes), mapped files included."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            line = next(line for line in file if line.startswith("VmHWM:"))
    except OSError:
        return None
    return int(line.split()[1]) * 1024 / 1e6


def measure(job, versions, load, begin, read, write_rest):
    """Does a job and prints what it took.

    `load()` gives a model; `begin(model, rows, length)` gives a state with room for rows of some
    length; `read(state, prompts)` gives the best token after each prompt; `write_rest(state,
    tokens, n)` gives `n` more tokens of each row.
    """
    model, load_s = timed(load)
    new_tokens = job["new_tokens"]

    def read_prompts(prompts):
        state = begin(model, len(prompts), len(prompts[0]) + new_tokens)
        tokens, seconds = timed(read, state, prompts)
        return state, tokens, seconds

    def write(prompts):
        state, tokens, _ = read_prompts(prompts)
        rest, seconds = timed(write_rest, state, tokens, new_tokens - 1)
        return [[token, *more] for token, more in zip(tokens, rest)], seconds

    alone = job["batch"][:1]
    read_prompts(alone)
    first_token_s = time.time() - job["started"]
    _, _, prompt_s = read_prompts([job["prompt"]])
    _, alone_s = write(alone)
    ids, batch_s = write(job["batch"])
    figures = {
        "versions": versions,
        "load_s": load_s,
        "first_token_s": first_token_s,
        "prompt_s": prompt_s,
        "alone_s": alone_s,
        "batch_s": batch_s,
        "ids": ids,
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(figures))
