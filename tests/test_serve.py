"""A trained prompt behind HTTP, asked by OpenAI's own client: its answers are the model's, whoever asks beside."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest
import uvicorn

from mpt import PromptedModel
from mpt.errors import UserError
from mpt.serve.answering import Limits
from mpt.serve.app import build_app
from mpt.serve.serving import is_loopback, main

TEXTS = [
    "the old king sold a red drum .",
    "anna lost two hats in the park .",
    "ben found a mill .",
    "the cook bought a blue cup near the river .",
]


@contextmanager
def serving(model, limits):
    """A server in this process; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(model, "a run", limits), log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def model(shipped_prompt):
    return PromptedModel.load(shipped_prompt)


@pytest.fixture(scope="module")
def address(model):
    with serving(model, Limits(batch_size=8, most_tokens=64)) as found:
        yield found


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as found:
        yield found


def health(address):
    with urllib.request.urlopen(f"{address}/health") as response:
        return json.load(response)


def test_answers_are_the_models(client, model):
    for task in ("mt", "sum"):
        wanted = model.generate(TEXTS, task)
        completed = client.completions.create(model=task, prompt=TEXTS)
        assert [choice.text for choice in completed.choices] == wanted
        assert [choice.index for choice in completed.choices] == [0, 1, 2, 3]
        assert {choice.finish_reason for choice in completed.choices} == {"stop"}
        chatted = client.chat.completions.create(model=task, messages=[{"role": "user", "content": TEXTS[0]}])
        assert chatted.choices[0].message.content == wanted[0]
        assert (chatted.model, chatted.object) == (task, "chat.completion")
    assert model.generate(TEXTS, "mt") != model.generate(TEXTS, "sum")
    tokens = [len(model.tokenizer(text).input_ids) for text in TEXTS]
    assert completed.usage.prompt_tokens == sum(tokens)
    assert completed.usage.completion_tokens == sum(len(model.tokenizer(text).input_ids) for text in wanted)
    assert completed.usage.total_tokens == completed.usage.prompt_tokens + completed.usage.completion_tokens


def test_tasks_are_the_models_that_there_are(client):
    assert [each.id for each in client.models.list()] == ["mt", "sum"]
    assert client.models.retrieve("sum").owned_by == "a run"


def test_a_crowd_is_answered_in_few_batches_and_each_as_alone(client, model, address):
    asked = [(task, text) for text in TEXTS for task in ("mt", "sum")] * 4
    before = health(address)

    def ask(pair):
        return client.completions.create(model=pair[0], prompt=pair[1]).choices[0].text

    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(ask, asked))
    assert found == [model.generate([text], task)[0] for task, text in asked]
    after = health(address)
    assert after["answered"] - before["answered"] == len(asked)
    assert after["batches"] - before["batches"] < len(asked) / 2
    assert after["waiting"] == 0


@pytest.mark.parametrize("task", ["mt", "sum"])
def test_a_stream_is_the_answer_in_pieces(client, model, task):
    wanted = model.generate(TEXTS[:1], task)[0]
    chunks = list(client.completions.create(model=task, prompt=TEXTS[0], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == wanted
    assert len([chunk for chunk in chunks if chunk.choices[0].text]) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    chunks = list(
        client.chat.completions.create(
            model=task,
            messages=[{"role": "user", "content": [{"type": "text", "text": TEXTS[0]}]}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == wanted
    assert chunks[-1].usage.completion_tokens == len(model.tokenizer(wanted).input_ids)


def test_streams_beside_each_other_do_not_mix(client, model):
    def ask(pair):
        chunks = client.completions.create(model=pair[0], prompt=pair[1], stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)

    asked = [(task, text) for text in TEXTS for task in ("mt", "sum")]
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(ask, asked)) == [model.generate([text], task)[0] for task, text in asked]


def test_an_answer_ends_at_stop_and_at_its_longest(client, model):
    wanted = model.generate(TEXTS[:1], "mt")[0]
    stop = wanted.split()[1]
    for stops in (stop, ["never", stop]):
        assert (
            client.completions.create(model="mt", prompt=TEXTS[0], stop=stops).choices[0].text == wanted.split(stop)[0]
        )
    chunks = list(client.completions.create(model="mt", prompt=TEXTS[0], stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == wanted.split(stop)[0]
    short = client.completions.create(model="mt", prompt=TEXTS[0], max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].text == model.generate(TEXTS[:1], "mt", max_new_tokens=2)[0]
    assert short.usage.completion_tokens == 2


def test_sampled_answers_follow_from_the_seed(client, model):
    settings = {"model": "mt", "prompt": TEXTS[0], "temperature": 1.5, "top_p": 0.9}
    first, second, other = (
        [choice.text for choice in client.completions.create(**settings, n=3, seed=seed).choices] for seed in (1, 1, 2)
    )
    assert first == second != other
    generation = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "num_return_sequences": 3}
    assert first == model.generate(TEXTS[:1], "mt", seed=1, **generation)
    greedy = client.completions.create(model="mt", prompt=TEXTS[0], temperature=0).choices[0].text
    assert greedy == model.generate(TEXTS[:1], "mt")[0]


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model": "gpt-4"}, 404, "model: no task 'gpt-4'; choose one of mt, sum"),
        ({"prompt": " "}, 400, "the text is empty"),
        ({"prompt": "a </s> b"}, 400, "reads as a control token"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": "red " * 600}, 400, "tokens, and mt takes"),
        ({"max_tokens": 65}, 400, "max_tokens: is 65, of 64 at most"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"n": 2}, 400, "n: is 2, of answers that are sampled; set a temperature above 0"),
        ({"top_p": 0.5}, 400, "top_p: is 0.5"),
        ({"temperature": -1}, 400, "temperature"),
        ({"logprobs": 3}, 400, "logprobs: this server cannot follow it; leave it out"),
        ({"stream": True, "n": 2, "temperature": 1}, 400, "stream: gives one answer to one text"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, changes, status, message):
    with pytest.raises(openai.APIStatusError, match=message) as error:
        client.completions.create(**({"model": "mt", "prompt": "a hat ."} | changes))
    assert error.value.status_code == status


def test_a_chat_is_one_message_of_the_users(client):
    said = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a hat ."}]
    with pytest.raises(
        openai.BadRequestError, match="messages: are of system, user; a prompt is trained to answer one"
    ):
        client.chat.completions.create(model="mt", messages=said)


def test_strangers_and_crowds_are_kept_out(model):
    with serving(model, Limits(token="open sesame", most_waiting=2, most_bytes=300)) as address:
        assert health(address)["status"] == "ok"
        stranger = openai.OpenAI(base_url=f"{address}/v1", api_key="guess", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="no such API key"):
            stranger.models.list()
        friend = openai.OpenAI(base_url=f"{address}/v1", api_key="open sesame", max_retries=0)
        assert friend.completions.create(model="mt", prompt=TEXTS[0]).choices[0].text
        with pytest.raises(openai.BadRequestError, match="prompt: has 3 texts, of 2 at most"):
            friend.completions.create(model="mt", prompt=["a .", "b .", "c ."])
        with pytest.raises(openai.APIStatusError, match="of 300 at most") as error:
            friend.completions.create(model="mt", prompt="a " * 200)
        assert error.value.status_code == 413
        with pytest.raises(openai.NotFoundError, match="Not Found"):
            friend.embeddings.create(model="mt", input="a")


class Held:
    """A model whose first batch waits until it is let go; counts what it is asked."""

    def __init__(self, model):
        self.model, self.asked, self.began, self.go = model, [], threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, texts, tasks, **settings):
        self.asked += texts
        self.began.set()
        assert self.go.wait(60)
        return self.model.generate(texts, tasks, **settings)


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_answers_a_client_that_has_gone(model, stream):
    held = Held(model)
    with serving(held, Limits()) as address, ThreadPoolExecutor(1) as pool:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        first = pool.submit(client.completions.create, model="mt", prompt=TEXTS[0])
        assert held.began.wait(60)
        with pytest.raises(openai.APITimeoutError):
            list(client.with_options(timeout=0.3).completions.create(model="mt", prompt=TEXTS[1], stream=stream))
        deadline = time.monotonic() + 30
        time.sleep(1)  # the server looks every half second
        held.go.set()
        assert first.result().choices[0].text == model.generate(TEXTS[:1], "mt")[0]
        assert client.completions.create(model="mt", prompt=TEXTS[2]).choices[0].text
        assert time.monotonic() < deadline
    assert held.asked == [TEXTS[0], TEXTS[2]]


def test_a_crowd_that_waits_keeps_others_out(model):
    held = Held(model)
    with serving(held, Limits(most_waiting=2)) as address, ThreadPoolExecutor(2) as pool:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        first = pool.submit(client.completions.create, model="mt", prompt=TEXTS[0])
        assert held.began.wait(60)
        second = pool.submit(client.completions.create, model="mt", prompt=TEXTS[1])
        while health(address)["waiting"] < 1:
            time.sleep(0.05)
        with pytest.raises(openai.RateLimitError, match="1 texts wait already; ask again later"):
            client.completions.create(model="mt", prompt=TEXTS[2:])
        held.go.set()
        assert first.result().choices[0].text
        assert second.result().choices[0].text


def test_a_text_that_the_model_refuses_spoils_no_other(model):
    class Picky(Held):
        def generate(self, texts, tasks, **settings):
            super().generate(texts, tasks, **settings)
            if "ben" in " ".join(texts):
                raise UserError("texts: one is too long for the memory")
            return self.model.generate(texts, tasks, **settings)

    picky = Picky(model)
    with serving(picky, Limits()) as address, ThreadPoolExecutor(4) as pool:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        answers = [pool.submit(client.completions.create, model="mt", prompt=TEXTS[0])]
        assert picky.began.wait(60)
        answers += [pool.submit(client.completions.create, model="mt", prompt=text) for text in TEXTS[1:]]
        while health(address)["waiting"] < 3:
            time.sleep(0.05)
        picky.go.set()
        wanted = model.generate(TEXTS, "mt")
        for place in (0, 1, 3):
            assert answers[place].result().choices[0].text == wanted[place]
        with pytest.raises(openai.BadRequestError, match="one is too long for the memory"):
            answers[2].result()
    assert sorted(picky.asked[1:4]) == sorted(TEXTS[1:])  # they were asked together first


def test_a_defect_is_an_error_of_the_server_and_the_next_one_is_answered(model, caplog):
    class Broken(Held):
        def generate(self, texts, tasks, **settings):
            if "ben" in texts[0]:
                raise RuntimeError("a defect")
            return self.model.generate(texts, tasks, **settings)

    with serving(Broken(model), Limits()) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="the server's log says why"):
            client.completions.create(model="mt", prompt=TEXTS[2])
        with pytest.raises(openai.APIError, match="the server's log says why"):
            list(client.completions.create(model="mt", prompt=TEXTS[2], stream=True))
        assert client.completions.create(model="mt", prompt=TEXTS[0]).choices[0].text
    assert "a batch of 1 questions was not answered" in caplog.text


def test_only_this_machine_comes_in_without_a_token(monkeypatch):
    monkeypatch.delenv("MPT_SERVE_TOKEN", raising=False)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"--host: 0\.0\.0\.0 is reached from other machines, and no token"):
        main(["run", "--host", "0.0.0.0"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: cannot listen at 127.0.0.1:{port}"):
            main(["run", "--port", str(port)])


def test_a_causal_model_is_served_alike(causal_run):
    model = PromptedModel.load(causal_run)
    texts = ["say red", "say blue or green", "say black"]
    with serving(model, Limits()) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)

        def ask(pair):
            task, text = pair
            whole = client.completions.create(model=task, prompt=text).choices[0]
            chunks = [chunk.choices[0] for chunk in client.completions.create(model=task, prompt=text, stream=True)]
            assert "".join(chunk.text for chunk in chunks) == whole.text
            assert chunks[-1].finish_reason == whole.finish_reason
            return whole.text

        asked = [(task, text) for text in texts for task in ("one", "two")]
        with ThreadPoolExecutor(len(asked)) as pool:
            found = list(pool.map(ask, asked))
    assert found == [model.generate([text], task)[0] for task, text in asked]
    assert any(found)


@pytest.mark.slow
def test_the_command(shipped_prompt):
    command = [sys.executable, "-W", "ignore", "-m", "mpt", "serve", str(shipped_prompt), "--port", "0"]
    environment = os.environ | {"MPT_SERVE_TOKEN": "key"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    line = server.stdout.readline()
    assert line.startswith("mt, sum: http://127.0.0.1:"), server.stderr.read()
    with openai.OpenAI(base_url=line.split()[2], api_key="key") as client:
        assert client.completions.create(model="sum", prompt=TEXTS[0]).choices[0].text
    server.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = server.communicate(timeout=60)
    assert (server.returncode, errors) == (130, "stopped\n")
    assert time.monotonic() - began < 30
