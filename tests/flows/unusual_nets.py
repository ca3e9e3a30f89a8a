"""Networks of one's own, as people write them: what each keeps beside its weights is said there."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, inputs, classes, seed=3):
        super().__init__()
        self.first, self.head, self.seed = nn.Linear(inputs, 8), nn.Linear(8, classes), seed

    def forward(self, x):
        return self.head(self.between(self.first(x.flatten(1))).tanh())

    def between(self, h):
        return h


class Expanded(Net):
    "A constant, kept as a view that cannot be written to."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("scale", torch.tensor(2.0).expand(8), persistent=False)

    def between(self, h):
        return h * self.scale


class Sized(Net):
    "A cache that has its size from the first use on."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("grid", torch.zeros(0), persistent=False)

    def between(self, h):
        if len(self.grid) != h.shape[1]:
            self.grid = torch.linspace(-1, 1, h.shape[1])
        return h + self.grid


class Absent(Net):
    "A cache that is not there before the first use."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("grid", None, persistent=False)

    def between(self, h):
        if self.grid is None:
            self.grid = torch.linspace(-1, 1, h.shape[1])
        return h + self.grid


class Made(Net):
    "A cache that is registered at the first use; `kept` says whether it is saved."

    kept = False

    def between(self, h):
        if not hasattr(self, "grid"):
            self.register_buffer("grid", torch.linspace(-1, 1, h.shape[1]), persistent=self.kept)
        return h + self.grid


class Kept(Made):
    kept = True


class Filled(Absent):
    "A saved cache that is not there before the first use."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("grid", None)


class Grown(Sized):
    "A saved cache that has its size from the first use on."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("grid", torch.zeros(0))


class Counting(Net):
    "State that is no buffer: how often it was trained, which scales its features."

    trained = 0.0

    def between(self, h):
        self.trained += self.training
        return h / (1 + self.trained)

    def get_extra_state(self):
        return torch.tensor(self.trained)

    def set_extra_state(self, state):
        self.trained = float(state)


class Renamed(Net):
    "Its weights are saved under another name, by hooks of its own."

    def __init__(self, *shape):
        super().__init__(*shape)

        def saved(module, state, prefix, _):
            state[prefix + "kernel"] = state.pop(prefix + "weight")

        def loaded(module, state, prefix, *_):
            state[prefix + "weight"] = state.pop(prefix + "kernel")

        self.first.register_state_dict_post_hook(saved)
        self.first.register_load_state_dict_pre_hook(loaded)


class Centred(Net):
    "A moving mean of dropped-out features, put in place anew at every step of training."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("centre", torch.zeros(8))

    def between(self, h):
        h = nn.functional.dropout(h, 0.5, self.training)
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * h.detach().mean(0)
        return h - self.centre


class Normed(Net):
    "Weight norm of the old kind, whose weight is computed from others and cannot be copied."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.first, self.norm = nn.utils.weight_norm(self.first), nn.BatchNorm1d(8)

    def between(self, h):
        return self.norm(h)


def of(kind):
    def make(input_shape, classes, **more):
        return kind(input_shape[0] * input_shape[1] * input_shape[2], classes, **more)

    return make


plain, expanded, sized, absent, centred, normed = map(of, (Net, Expanded, Sized, Absent, Centred, Normed))
made, kept, filled, grown, counting = map(of, (Made, Kept, Filled, Grown, Counting))
renamed = of(Renamed)


class Lazy(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.first = nn.LazyLinear(8)


class Squeezed(Net):
    def forward(self, x):
        return super().forward(x)[:, :3].squeeze().softmax(1)


lazy, squeezed = of(Lazy), of(Squeezed)


class Averaged(Net):
    "A mean that starts as a whole number and has the type of what comes in from the first use on."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("mean", torch.tensor(0))

    def between(self, h):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean() + 1
        return h * (1 + self.mean)


class Constant(Expanded):
    "A constant that is saved, kept as a view that cannot be written to."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("scale", torch.tensor(2.0).expand(8))


class Flagged(Net):
    "A cache that an attribute says is filled."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("grid", torch.zeros(8), persistent=False)
        self.done = False

    def between(self, h):
        if not self.done:
            self.grid, self.done = torch.linspace(-1, 1, 8), True
        return h + self.grid


class Rotary(Net):
    "A cache whose size an attribute tells."

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("grid", torch.zeros(0), persistent=False)
        self.cached = 0

    def between(self, h):
        if self.cached < h.shape[1]:
            self.grid, self.cached = torch.linspace(-1, 1, h.shape[1]), h.shape[1]
        return h + self.grid[: h.shape[1]]


averaged, constant, flagged, rotary = map(of, (Averaged, Constant, Flagged, Rotary))


class Late(Net):
    "A weight that is made in the first forward pass."

    def between(self, h):
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(8))
        return h * self.scale


class Later(Net):
    "A module with a buffer that is made in the first forward pass."

    def between(self, h):
        if not hasattr(self, "place"):
            self.place = nn.Module()
            self.place.register_buffer("grid", torch.linspace(-1, 1, 8))
        return h + self.place.grid


late, later = of(Late), of(Later)
