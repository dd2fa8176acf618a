"""What was found as one HTML page: players and spectrograms lie in it, so that it opens anywhere, offline.

Names come from users and files: they are escaped, and the page allows nothing to be fetched or run.
"""

import base64
import html
import string
from collections.abc import Sequence

import numpy as np

from tfsound import media, plots, resumption
from tfsound.active_learning.audio import SAMPLE_RATE, read_piece
from tfsound.search.store import Item

# What is heard of a long clip; and around a short window, on each side.
_MAX_SECONDS = 10.0
_SURROUNDINGS_SECONDS = 1.0
_SHORT_SECONDS = 2.0

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
ol { padding-left: 2rem; }
li, .query { border-top: 1px solid #ccc; padding: 0.8rem 0; }
img { display: block; height: 8rem; width: 100%; image-rendering: pixelated; }
audio { display: block; width: 100%; margin-top: 0.3rem; }
.file { color: #555; overflow-wrap: anywhere; }
.problem { color: #c44601; }
</style>
</head>
<body>
<h1>Sounds like this one</h1>
<div class="query">$query</div>
<ol>
$found
</ol>
</body>
</html>
""")


def write_page(path: str, query: Item, found: Sequence[tuple[float, Item]]) -> list[str]:
    """Writes the page of a query and what was found for it, as (similarity, item), nearest first.

    Returns:
      Why some sounds are not on it: files that were moved or damaged since. The page says so in their place.
    """
    problems: list[str] = []
    entries = [
        f"<li>{_entry(item, f'similarity {similarity:.4f}', problems)}</li>" for similarity, item in found
    ]
    page = _PAGE.substitute(
        title=html.escape(f"Sounds like {query.clip_id}"),
        query=_entry(query, "the query", problems),
        found="\n".join(entries),
    )
    resumption.write_text(path, page.encode(errors="replace").decode())
    return problems


def _entry(item: Item, remark: str, problems: list[str]) -> str:
    """What the page shows of one sound."""
    times = f"{item.start_seconds:.2f} to {item.end_seconds:.2f} s"
    labels = f"; {'; '.join(item.labels)}" if item.labels else ""
    text = f"<b>{html.escape(item.clip_id)}</b> {times}{html.escape(labels)} ({html.escape(remark)})"
    text += f'<div class="file">{html.escape(item.uri)}</div>'
    start, end = heard(item)
    try:
        # What is shown may be any file; a player takes finite samples in [-1, 1].
        waveform = np.clip(np.nan_to_num(read_piece(item.uri, start, end)), -1, 1)
    except media.MediaError as error:
        problems.append(str(error))
        return f'{text}<div class="problem">{html.escape(str(error))}</div>'
    wav = media.encode_wav(waveform, SAMPLE_RATE)
    name = html.escape(f"Spectrogram of {item.clip_id}, from {start:.2f} s on")
    return (
        f'{text}<img alt="{name}" src="{_data_uri("image/png", _picture(waveform))}">'
        f'<audio controls preload="metadata" src="{_data_uri("audio/wav", wav)}"></audio>'
    )


def heard(item: Item) -> tuple[float, float]:
    """From where to where an item is played: a short one with what surrounds it, a long one at its start."""
    start, end = item.start_seconds, min(item.end_seconds, item.start_seconds + _MAX_SECONDS)
    if end - start < _SHORT_SECONDS:
        start, end = max(0.0, start - _SURROUNDINGS_SECONDS), end + _SURROUNDINGS_SECONDS
    return round(start, 6), round(end, 6)


def _picture(waveform: np.ndarray) -> bytes:
    from tfsound import mel  # here, because TensorFlow takes seconds

    params = mel.PRESETS["audioset"]
    padded = np.pad(waveform, (0, max(0, params.window_samples - len(waveform))))
    return plots.log_mel_png(mel.log_mel(mel.mel_energies(padded, params), params).numpy())


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
