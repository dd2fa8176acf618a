"""The web application: the page's files, its sounds and pictures, and the answers it sends.

Addresses name questions and sounds by number, so none can lead to a file outside the set; texts go out as
JSON and the page shows them as text. Every refusal is JSON with an `error` that the page shows.
"""

import functools
import importlib.resources
import os
import threading
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from tfsound.active_learning import ActiveLearningError, Neighbour, Question
from tfsound.labelling.session import Session
from tfsound.labelling.sounds import SoundError, Spectrogram, describe, draw_spectrogram, sound_path
from tfsound.records import field, parse_object

_MAX_BODY_BYTES = 64 * 1024
_TEXTS = ("answer_id", "question_id", "answer")
_MAX_PICTURES = 64  # in memory, some 20 kB each
_INDEX = "index.html"
_MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}


def make_application(session: Session, *, token: str) -> Starlette:
    """The application of one run, all of it under `/<token>/`."""
    pages = _Pages(session)
    routes = [
        *_static_routes(),
        Route("/api/session", pages.session),
        Route("/api/alive", pages.alive),
        Route("/api/questions/{question:int}", pages.question),
        Route("/api/spectrograms/{question:int}/{sound:int}", pages.spectrogram),
        Route("/api/answers", pages.answer, methods=["POST"]),
        Route("/spectrograms/{question:int}/{sound:int}.png", pages.picture),
        Route("/audio/{question:int}/{sound:int}.wav", pages.audio),
    ]
    slash = Route(f"/{token}", lambda request: RedirectResponse(f"/{token}/", 307))
    handlers: dict = {
        HTTPException: lambda request, error: _error(error.detail, error.status_code),
        ActiveLearningError: lambda request, error: _error(str(error), 400),
        SoundError: lambda request, error: _error(str(error), 404),
        OSError: lambda request, error: _error(
            f"the disk refuses it ({error}); make room and try again.", 507
        ),
    }
    return Starlette(routes=[slash, Mount(f"/{token}", routes=routes)], exception_handlers=handlers)


def _error(message: str, status: int) -> Response:
    return JSONResponse({"error": message}, status)


def _static_routes() -> list[Route]:
    """The page's files, read once; `/` is the page itself."""
    files = importlib.resources.files(__package__).joinpath("static").iterdir()
    return [
        Route(f"/{'' if file.name == _INDEX else file.name}", _static(file.read_bytes(), file.name))
        for file in files
        if os.path.splitext(file.name)[1] in _MEDIA_TYPES
    ]


def _static(content: bytes, name: str) -> Callable:
    media_type = _MEDIA_TYPES[os.path.splitext(name)[1]]

    async def page(request: Request) -> Response:
        return Response(content, media_type=f"{media_type}; charset=utf-8")

    return page


class _Pages:
    """The endpoints. Those that are no coroutines run in threads: they wait for the disk."""

    def __init__(self, session: Session):
        self._session = session
        self._drawing = threading.Lock()
        self._spectrogram = functools.lru_cache(_MAX_PICTURES)(self._draw)

    def _window(self, question: int, sound: int) -> Question | Neighbour:
        """The question itself for 0, its neighbours from 1 on. Raises: HTTPException where there is none."""
        questions = self._session.question_set.questions
        if question >= len(questions) or sound > len(questions[question].neighbours):
            raise HTTPException(404, f"There is no sound {sound} of a question {question} in this set.")
        asked = questions[question]
        return asked.neighbours[sound - 1] if sound else asked

    def _draw(self, question: int, sound: int) -> Spectrogram:
        with self._drawing:  # one picture takes all cores
            return draw_spectrogram(self._session.question_set, self._window(question, sound))

    def session(self, request: Request) -> Response:
        return JSONResponse(self._session.to_json())

    async def alive(self, request: Request) -> Response:
        return JSONResponse({"num_stored": self._session.num_stored})

    def question(self, request: Request) -> Response:
        number = request.path_params["question"]
        asked = self._window(number, 0)
        sounds = []
        for index, window in enumerate([asked, *asked.neighbours]):
            addresses = {
                "audio": f"audio/{number}/{index}.wav",
                "spectrogram": f"api/spectrograms/{number}/{index}",
            }
            sounds.append(describe(self._session.question_set, window) | addresses)
        fields = {"cluster": asked.cluster, "cluster_size": asked.cluster_size}
        return JSONResponse(fields | {"sound": sounds[0], "neighbours": sounds[1:]})

    def spectrogram(self, request: Request) -> Response:
        question, sound = request.path_params["question"], request.path_params["sound"]
        picture = self._spectrogram(question, sound)
        frequencies = [{"hz": hz, "height": height} for hz, height in picture.frequencies]
        return JSONResponse(
            {
                "image": f"spectrograms/{question}/{sound}.png",
                "start_seconds": picture.start_seconds,
                "end_seconds": picture.end_seconds,
                "frequencies": frequencies,
            }
        )

    def picture(self, request: Request) -> Response:
        picture = self._spectrogram(request.path_params["question"], request.path_params["sound"])
        return Response(picture.png, media_type="image/png")

    def audio(self, request: Request) -> Response:
        window = self._window(request.path_params["question"], request.path_params["sound"])
        return FileResponse(sound_path(self._session.question_set, window), media_type="audio/wav")

    async def answer(self, request: Request) -> Response:
        fields = await _answer_fields(request)
        question, session = await run_in_threadpool(
            self._session.answer,
            fields["question_id"],
            fields["answer"],
            fields["labels"],
            answer_id=fields["answer_id"],
        )
        return JSONResponse({"question": question, "session": session})


async def _answer_fields(request: Request) -> dict:
    """The body of an answer. Raises: HTTPException or ActiveLearningError for anything else."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "An answer must be application/json.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"An answer may have {_MAX_BODY_BYTES} bytes at most.")
    fields = parse_object(body, "answer")
    if set(fields) != {*_TEXTS, "labels"}:
        raise HTTPException(400, f"An answer must have the fields {', '.join(_TEXTS)} and labels, no others.")
    kinds = dict.fromkeys(_TEXTS, str) | {"labels": list}
    return {name: field(fields, name, kind, "answer") for name, kind in kinds.items()}
