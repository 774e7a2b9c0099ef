"""Makes parameters that say what they are: decay, gradients, FLOPs and shardings follow from a parameter's role."""

import dataclasses
import enum

import jax
from flax import nnx


class Kind(enum.Enum):
    """The kinds of parameters."""

    KERNEL = (
        "kernel"  # a matrix `[in, out]` of a product, or those of a convolution, `[height, width, in, out]`
    )
    EMBEDDING = "embedding"  # a table `[count, D]` of vectors that are looked up
    VOCABULARY = "vocabulary"  # the embedding that has a row for each token, and may also be the output layer
    NORM = "norm"  # a scale or bias of a normalization
    BIAS = "bias"  # any other values that are added
    ADAPTER = "adapter"  # a matrix `[in, r]` or `[r, out]` of an adapter
    FACTOR = "factor"  # the values by which an adapter multiplies features
    CONSTANT = "constant"  # values of an adapter that are never trained
    STATISTIC = "statistic"  # no parameter: a running mean or variance, which a train step returns


# How FSDP and tensor parallelism split a kernel `[in, out]`, by axes of the mesh. The tensor axis splits what comes out
# of the first of two products, and what goes into the second, so that devices exchange only the second one's results.
SPLIT_OUTPUTS = ("fsdp", "tensor")
SPLIT_INPUTS = ("tensor", "fsdp")
SPLIT_BY_FSDP = ("fsdp", None)


@dataclasses.dataclass(frozen=True)
class Role:
    """The role of a parameter in its network.

    Attributes:
      kind: what it is.
      axes: the axis of the mesh that splits each of its dimensions, or None; () if nothing splits it. A stack of layers
        has one more dimension in front.
      reads_all_positions: True for a kernel of queries, keys or values. Even if the outputs of the last layer are read
        at few positions, it multiplies all of them.
      reads_tokens: False for a kernel that multiplies a table whose rows are not tokens, such as those of distances.
      uses: how often a kernel multiplies for each slot of a row, if not once at each of its positions.
      has_columns_of_layers: True if the last dimension is made up of the values of each layer, next to each other.
    """

    kind: Kind
    axes: tuple[str | None, ...] = ()
    reads_all_positions: bool = False
    reads_tokens: bool = True
    uses: int | None = None
    has_columns_of_layers: bool = False

    @property
    def is_matrix(self) -> bool:
        """Returns whether the parameter is a matrix: it decays, and its gradients may have a smaller dtype."""
        return self.kind in (Kind.KERNEL, Kind.EMBEDDING, Kind.VOCABULARY, Kind.ADAPTER)


def make_parameter(value: jax.Array, role: Role) -> nnx.Param[jax.Array]:
    """Returns a parameter with a role."""
    return nnx.Param(value, role=role)


def read_roles(module: nnx.Module) -> dict[str, Role]:
    """Returns the roles of a module's parameters by path, such as "head/kernel".

    Raises:
      ValueError: a parameter has no role.
    """
    roles = {}
    for path, parameter in nnx.to_flat_state(nnx.state(module)):
        name, metadata = "/".join(map(str, path)), parameter.get_metadata()
        if "role" not in metadata:
            raise ValueError(
                f"the parameter {name!r} has no role: make it by `layers.parameters.make_parameter`"
            )
        roles[name] = metadata["role"]
    return roles
