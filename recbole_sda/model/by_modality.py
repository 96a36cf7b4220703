"""What a model learns for each modality."""

from collections.abc import Iterator, Mapping

from torch import nn


class ByModality(nn.Module):
    """Modules or parameters under the modalities' names, in their order.

    ``nn.ModuleDict`` refuses names such as ``items`` and ``values``, which users give to features of their own,
    and ``nn.ParameterDict`` sorts them.
    """

    def __init__(self, learned: Mapping[str, nn.Module | nn.Parameter]):
        super().__init__()
        self.names = tuple(learned)
        for name, value in learned.items():
            setattr(self, f"of_{name}", value)

    def __getitem__(self, name: str) -> nn.Module | nn.Parameter:
        if name not in self.names:
            raise KeyError(name)
        return getattr(self, f"of_{name}")

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def keys(self) -> tuple[str, ...]:
        return self.names

    def values(self) -> list[nn.Module | nn.Parameter]:
        return [self[name] for name in self.names]

    def items(self) -> list[tuple[str, nn.Module | nn.Parameter]]:
        return [(name, self[name]) for name in self.names]
