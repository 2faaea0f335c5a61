"""What crosses from the runner to the engine and back: plain frozen data, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

FinishReason = Literal["end_of_turn", "length", "stop"]
# What an engine's device does, or waits for. prefill: prompts and settled canvases on their way into the KV cache.
PHASES = ("load", "tokenize", "prefill", "denoise", "sample", "wait_input", "wait_output")
Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


@dataclass(frozen=True, slots=True)
class Settings:
    """How one prompt is sampled, complete."""

    max_new_tokens: int
    max_denoising_steps: int  # per canvas; also sets the slope of the temperature
    entropy_bound: float  # nats accepted per step beyond the surest position
    temperature_start: float
    temperature_end: float
    confidence: float  # nats; a canvas settles below this mean entropy
    stability: int  # steps the argmax must have stood still
    stop: tuple[str, ...] = ()
    greedy: bool = False  # accept the likeliest token instead of a drawn one
    suppress_tokens: tuple[int, ...] = ()  # ids that are never written


@dataclass(frozen=True, slots=True)
class Generation:
    """What a job says about sampling; None means: what the checkpoint's generation_config says."""

    max_new_tokens: int | None = None
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    temperature_start: float | None = None
    temperature_end: float | None = None
    confidence: float | None = None
    stability: int | None = None
    stop: tuple[str, ...] | None = None
    greedy: bool | None = None
    suppress_tokens: tuple[int, ...] | None = None

    def or_else(self, defaults: Settings) -> Settings:
        """The checkpoint's settings, with what is said here put over them."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(defaults, **said)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One sample of one row, ready for the engine."""

    id: str
    sample: int
    messages: tuple[Message, ...]
    noise_key: int  # unsigned 64 bit; every random number of this sample follows from it
    thinking: bool = False
    generation: Generation = Generation()
    film: bool = False  # whether to keep what its canvases look like after each step; changes no token


@dataclass(frozen=True, slots=True)
class Frame:
    """A canvas right after one of its denoising steps, by position."""

    tokens: tuple[int, ...]  # what the next step sees: the token drawn where it was accepted, fresh noise elsewhere
    accepted: tuple[bool, ...]
    argmax: tuple[int, ...]  # the text, should the canvas settle now
    entropy: tuple[int, ...]  # of what the model believes, in 1/32 of a nat


@dataclass(frozen=True, slots=True)
class CanvasFilm:
    """One canvas from noise to text."""

    noise: tuple[int, ...]  # the tokens that its first step saw
    frames: tuple[Frame, ...]  # one per step; the argmax of the last one is the text


@dataclass(frozen=True, slots=True)
class Film:
    """What the canvases of one completion looked like, step by step."""

    canvases: tuple[CanvasFilm, ...]  # the first ones, where there are many
    pieces: Mapping[int, str]  # the text of each token that is in a frame
    special: frozenset[int]  # those of them that are no text, such as the end of a turn


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model made of one prompt."""

    id: str
    sample: int
    text: str
    thinking: str | None
    finish_reason: FinishReason
    token_ids: tuple[int, ...]  # generated, end of turn included where there is one
    prompt_tokens: int
    canvases: int
    denoise_steps: int  # over all canvases
    noise_key: int
    revised_tokens: int = 0  # settled as another token than the one first accepted in their place
    thinking_tokens: int = 0  # of its tokens: those of the thought channel, with what opens and closes it
    canvas_steps: tuple[int, ...] = ()  # denoising steps of each canvas, in order
    mean_entropy: float = 0.0  # nats a position, when its canvases settled
    queue_s: float = field(default=0.0, compare=False)  # from being pulled to its first pass
    prefill_s: float = field(default=0.0, compare=False)  # to the first denoising step
    denoise_s: float = field(default=0.0, compare=False)  # to the end
    film: Film | None = field(default=None, compare=False)  # where the prompt asked for it

    @property
    def tokens(self) -> int:
        """Generated tokens, end of turn included."""
        return len(self.token_ids)

    @property
    def steps_per_canvas(self) -> float:
        return self.denoise_steps / self.canvases

    @property
    def tokens_per_step(self) -> float:
        """Generated tokens per forward pass of its canvases."""
        return self.tokens / self.denoise_steps


@dataclass(frozen=True, slots=True)
class Rejection:
    """A prompt the engine gives up on: it costs its own row and nothing else."""

    id: str
    sample: int
    error_code: str  # one of: prompt_too_long, empty_prompt, template_error, ...
    error_message: str


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine is told; built by the runner without torch."""

    canvases: int | None = None  # canvases in flight; None: what a short calibration finds best
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    dtype: str = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    threads: int | None = None  # CPU threads of torch; None leaves it alone
    max_prompt_tokens: int | None = None  # None: what the context leaves after one canvas
    prefill_tiles: int = 4  # tiles of prompts in one pass, so that a long prompt does not stall the others
    fold: bool = True  # a canvas starts in the pass that encodes what comes before it
    share_prefixes: bool = True  # keep the keys and values of prompts that begin alike
    kv_bytes: int | None = None  # for keys and values; None: what the device has left


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One measured point of the throughput curve."""

    canvases: int  # in flight
    seconds: float  # of one denoising step of them all

    @property
    def per_second(self) -> float:
        """Canvas steps a second."""
        return self.canvases / self.seconds


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was loaded, and seconds by phase."""

    prompts: int = 0
    rejections: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    canvases: int = 0
    denoise_steps: int = 0  # of the canvases counted above, which have settled
    passes: int = 0  # forward passes of any kind
    tiles: int = 0  # in those passes
    shared_tokens: int = 0  # of prompts, found in the prefix cache instead of being computed
    cut_tokens: int = 0  # denoised and thrown away: past the end of the turn, a limit or a stop string
    peak_bytes: int = 0  # of device memory; of the process on a CPU
    steps: int = 0  # of all canvases in flight together
    canvas_tiles: int = 0  # canvases in those steps: denoising steps, of canvases that have not settled too
    prefix_tokens: int = 0  # that they saw before themselves
    floor_s: float = 0.0  # the least those steps could have taken; 0 where nobody knows
    # By phase, as PHASES has them: every second is in one.
    seconds: dict[str, float] = field(default_factory=dict)
