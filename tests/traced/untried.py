"""Factories whose steps are not in the table of `steps`, by the reason why not."""

UNTRIED = {
    "part of a step that is tried: of er and a_gem, of all learners, of choco_sgd, of agents and clients, of idkd": """
        continual.baselines.er.with_buffer continual.protocol.descent continual.protocol.task_loss
        decentralized.gossip.adapt_then_combine decentralized.state.classification federated.fedavg.classification
        decentralized.idkd.distillation decentralized.methods.build
    """,
    "reads no batch; its round is that of low_precision, which is tried": """
        decentralized.low_precision.gossip_only
    """,
    "a chain of optax's own transforms": """
        decentralized.state.optimizer training.recipe.optimizer
    """,
    "whole epochs of ot_classifier, by the loop of training.fit, which refuses bad data in its first line": """
        robustness.ot_classifier.train_epoch
    """,
    "of images, not of parameters: core.attacks.run is fuzzed, with its sentences in tests/core": """
        core.attacks.pgd.steps_of
    """,
    "over several devices: tests/parallel": """
        parallel.splitbrain.baselines.annotated_loss parallel.splitbrain.baselines.plain_loss
        parallel.splitbrain.loss.hybrid_loss parallel.splitbrain.step.train_step
    """,
    "runs on the host: its calls are in tests/fuzz/entries_steps.py": """
        spiking.temporal_pruning.shorten
    """,
    "what all detectors of logits are made of": """
        ood.scores.of_logits
    """,
}
