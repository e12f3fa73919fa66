"""The graph on stock llama-server through ChatKVForkServer: its slots get a prefix that is saved.

The server is the one of `llama_server.py`, started with `--slot-save-path` beside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from benchmarks.contestants import CONTESTANTS
from benchmarks.contestants.llama_server import server
from benchmarks.job import Found, Job, serve
from benchmarks.measures.graph import count_tokens, timed
from langgraph_kvfork import ChatKVForkServer, ForkReport


def measure(job: Job) -> Iterator[Found]:
    unified = CONTESTANTS[job.contestant].options["unified"]
    with tempfile.TemporaryDirectory() as folder:
        more = ["--slot-save-path", f"{folder}/"]
        with server(job, slots=len(job.questions), unified=unified, more=more) as url:
            llm = ChatKVForkServer(
                base_url=url, temperature=0, max_completion_tokens=job.generate, max_retries=0
            )
            llm.server_facts()  # what is asked once is no part of a fan-out
            for name, questions in (("first", job.questions), ("next", job.more_questions)):
                # the report counts what was computed ahead, which no answer has
                with ForkReport() as report:
                    seconds, answers = timed(llm, job.document, questions)
                _, generated = count_tokens(answers)
                yield Found(name, seconds, report.prefilled_tokens, generated)


if __name__ == "__main__":
    serve(measure)
