"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Spiking networks: fewer channels, time steps and bits (spatio-temporal pruning)",
    source="VGG9 on CIFAR-10, 100 steps, and pruned at .07 of its parameters: Chowdhury, Garg, Roy, IJCNN 2021, as "
    "recorded by independent replications",
    figures={"accuracy/base": ".9010", "accuracy/tau_0.999": ".8904"},
    runs=("cpu_digits", "gpu_cifar10"),
    omit="^(threshold|rate|rank|dims|dims_untrained|spikes|spikes_per_neuron|accuracy_ann|energy_ratio_rate)/",
)
