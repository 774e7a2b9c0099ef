"""Computes the bytes that the algorithms of data, FSDP and tensor parallelism must send in a train step."""

from jaxft.layers.parameters import SPLIT_INPUTS, Kind
from jaxft.parallel.mesh import AXES
from jaxft.training.network import Network
from jaxft.training.train_state import TrainState


def required_collective_bytes(
    net: Network,
    state: TrainState,
    *,
    compute_itemsize: int,
    gradient_itemsize: int,
    slots: int,
    accumulate: int,
) -> int:
    """Returns the bytes that a device must send in a step of data parallelism, FSDP and tensor parallelism.

    Data parallelism and FSDP follow Rajbhandari et al. 2020 (ZeRO), section 7. In each microbatch, a parameter that is
    split over fsdp is gathered for the forward pass and again for the backward pass, and its gradient is
    reduce-scattered, all in the dtype of the computation. If there is also a data axis, the shard of the gradient is
    all-reduced over it in the gradients' dtype (float32 for vectors). The gradient of a parameter that every device
    holds in full is all-reduced too. Instead of gathering the table of an embedding, devices may exchange the
    looked-up vectors (and their gradients) from columns to rows, in float32.

    Tensor parallelism follows Shoeybi et al. 2019 (Megatron-LM), section 3. The results of attention and of the MLP are
    all-reduced in the forward pass, and the gradients of their inputs in the backward pass. The vectors that are looked
    up in a vocabulary that is split by words are all-reduced too. The loss over a vocabulary gathers the table and
    splits the positions.

    Args:
        net: the network, with its mesh.
        state: the abstract train state.
        compute_itemsize: the bytes of a number in the computation.
        gradient_itemsize: the bytes of a number in the gradient of a matrix.
        slots: the rows times the length of a step, over all devices.
        accumulate: the number of microbatches in a step.
    """
    data, fsdp, tensor = (net.mesh.shape[axis] for axis in AXES)
    device_slots = slots // (data * fsdp)  # the slots whose activations a device has
    total = 0.0
    for name, leaf in net.abstract.items():
        role, axes = net.roles[name], [axis for axis in leaf.sharding.spec if axis]
        is_split_by_fsdp, is_split_by_tensor = "fsdp" in axes, "tensor" in axes
        fsdp_ways = fsdp if is_split_by_fsdp else 1
        tensor_ways = tensor if is_split_by_tensor else 1
        is_trained = name in state.trainable
        is_embedding = role.kind in (Kind.EMBEDDING, Kind.VOCABULARY)
        is_output_table = net.task.predicts_tokens and role.kind is Kind.VOCABULARY
        size = leaf.size / tensor_ways
        width = leaf.shape[-1]
        gradient_bytes = gradient_itemsize if role.is_matrix else 4  # per number
        passes = 3 if is_trained else 2  # exchanges over fsdp per microbatch: two gathers, one reduce-scatter

        if is_output_table:
            ways = fsdp_ways * tensor_ways
            total += leaf.size * compute_itemsize * accumulate * passes * (ways - 1) / ways
            # Each device sends the gradients of the positions that it computes to all others.
            total += device_slots * width * compute_itemsize * (tensor - 1) / tensor
        elif is_split_by_fsdp and is_embedding:
            looked_up_bytes = device_slots * width * (8 if is_trained else 4)
            table_bytes = size * (compute_itemsize + (gradient_bytes if is_trained else 0)) * accumulate
            total += min(looked_up_bytes, table_bytes) * (fsdp - 1) / fsdp
        elif is_split_by_fsdp:
            itemsize = min(compute_itemsize, leaf.dtype.itemsize)  # the base of adapters may be smaller
            total += size * itemsize * accumulate * passes * (fsdp - 1) / fsdp

        if is_split_by_tensor and is_embedding:
            total += _all_reduced_bytes(slots // data * (width / fsdp_ways) * 4, tensor)
        elif is_split_by_tensor and role.axes == SPLIT_INPUTS:
            # The results of this product, and the gradients of the inputs, as wide, of those whose results it reads.
            layers, width_bytes = leaf.shape[0], device_slots * width * compute_itemsize
            total += 2 * layers * _all_reduced_bytes(width_bytes, tensor)

        if is_trained:
            ways = data * (1 if is_split_by_fsdp else fsdp)
            if is_output_table and not is_split_by_tensor:
                ways *= tensor
            total += _all_reduced_bytes(size * gradient_bytes / fsdp_ways, ways)
    return round(total)


def _all_reduced_bytes(size: float, ways: int) -> float:
    """Returns the bytes that a device sends in a ring all-reduce of `size` bytes over `ways` devices."""
    return 2 * size * (ways - 1) / ways
