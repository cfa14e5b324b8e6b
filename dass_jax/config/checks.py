"""What no single field can tell: the parts of a configuration together."""

from dass_jax.config.axes import GIVEN, is_published
from dass_jax.config.changes import control, uses_hypergradient
from dass_jax.config.rules import short
from dass_jax.config.run import LARGEST_SEED, Config, title
from dass_jax.errors import UserError
from dass_jax.methods import METHODS
from dass_jax.spaces import SPACES


def check(config: Config) -> Config:
    """The configuration itself. Raises UserError if its parts contradict each other."""
    _check_trained(config)
    _check_controls(config)
    _check_data(config)
    _check_search(config)
    SPACES[config.space.name].check(config.space.fields)
    _check_space(config)
    return config


def _check_space(config: Config) -> None:
    """Whether the methods can search the space."""
    sampled = SPACES[config.space.name].sampled
    able = [name for name, entry in METHODS.items() if entry.sampled in (None, sampled)]
    for name in (config.method.name, *config.controls):
        if name not in able:
            where = "method.name" if name == config.method.name else "controls"
            raise UserError(
                f"{where} = {name!r} in {config.space.name!r}, a {'sampled' if sampled else 'relaxed'} space; "
                f"allowed: {', '.join(able)}"
            )


def _check_trained(config: Config) -> None:
    """Whether it is said once, and in one way, what network is trained."""
    method, given = f"method.name = {config.method.name!r}", f"architecture = {short(config.architecture)}"
    if is_published(config.network.name):
        other = f"network.name = {config.network.name!r}"
        if config.method.name != GIVEN:
            raise UserError(f"{other} with {method}; allowed: method.name = 'given', as nothing is searched for it")
        for text, wrong in ((given, config.architecture), (f"controls = {list(config.controls)}", config.controls)):
            if wrong:
                raise UserError(f"{text} with {other}; allowed: with the network of an architecture")
    elif config.method.name == GIVEN and not config.architecture:
        raise UserError(
            f"{method} without an architecture; allowed: architecture = NAME_OR_FILE, or a published network.name"
        )
    elif config.method.name != GIVEN and config.architecture:
        raise UserError(f"{given} with {method}; allowed: method.name = 'given', or architecture = ''")


def _check_controls(config: Config) -> None:
    main = title(config)
    if main in config.controls or len(set(config.controls)) < len(config.controls):
        raise UserError(
            f"controls = {list(config.controls)}; allowed: different methods, none of them the main one, {main!r}"
        )
    budget = METHODS[config.method.name].epochs(config.method.fields)
    for name in config.controls:
        own = METHODS[name].epochs(control(config, name).method.fields)
        if budget and own not in (0, budget):
            raise UserError(
                f"controls = {list(config.controls)}: {name!r} takes {own} epochs and the main method {budget}; "
                "allowed: methods of the same budget"
            )


def _check_data(config: Config) -> None:
    data = config.data
    if data.crop_scale and not (data.streaming and data.image_size and data.crop_padding == 0):
        raise UserError(
            f"data.crop_scale = {data.crop_scale} with data.streaming = {str(data.streaming).lower()}, data.image_size "
            f"= {data.image_size}, data.crop_padding = {data.crop_padding}; allowed: with true, a size, and 0"
        )


def _check_search(config: Config) -> None:
    if config.seed + config.seeds > LARGEST_SEED + 1:
        raise UserError(
            f"seeds = {config.seeds} with seed = {config.seed}; allowed: seeds up to {LARGEST_SEED}, and the last one "
            f"would be {config.seed + config.seeds - 1}"
        )
    skips = getattr(config.method.fields, "stop_at_skips", 0)
    if skips and config.seeds > 1:
        raise UserError(
            f"method.stop_at_skips = {skips} with seeds = {config.seeds}, which search in step; "
            "allowed: 0, or runs of one seed"
        )
    if config.hypergradient != Config.hypergradient and not uses_hypergradient(config):
        takers = [name for name, entry in METHODS.items() if entry.hypergradient]
        raise UserError(
            f"hypergradient.name = {config.hypergradient.name!r} with method.name = {config.method.name!r}, which has "
            f"no use for it; allowed: with {', '.join(map(repr, takers))}"
        )
