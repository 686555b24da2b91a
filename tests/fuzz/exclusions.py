"""Public functions that are not fuzzed, by the reason why not."""

EXCLUDED = {
    "the checks themselves, whose sentences tests/core/test_checks.py reads": """
        compression.pca_design.check_rows continual.extract.check_network continual.gpm.check_energy
        continual.leak.warn core.capture.replace.check_writes core.checks.as_real core.checks.check_axes
        core.checks.check_count core.checks.check_data core.checks.check_filled core.checks.check_finite
        core.checks.check_host core.checks.check_labels core.checks.check_lengths core.checks.check_number
        core.checks.check_positions core.checks.check_probabilities core.checks.check_real core.checks.check_several
        core.checks.check_shape core.checks.check_varied core.checks.is_known core.moments.check_dtype
        core.quantize.check_calibrated decentralized.labelling.check_order decentralized.ngc.refuse_statistics
        decentralized.state.check_rates federated.fedavg.refuse_statistics hardware.circuit.check hardware.sram.check
        ood.auxiliary_class.check_outputs ood.evaluation.warn_if_shared parallel.asap.traces.check_trace
        parallel.splitbrain.loss.check_batch robustness.audit.check_function robustness.audit.check_named
        robustness.ot_classifier.check_training robustness.ot_classifier.check_width core.checks.on_host
        core.checks.check_updates
    """,
    "reads or writes files; damaged ones are tried in the tests of checkpoints and of data": """
        checkpoint.folder.manager checkpoint.network.epochs checkpoint.network.load_config
        checkpoint.network.load_model checkpoint.network.seeds checkpoint.running.latest_config
        checkpoint.running.restore checkpoint.running.resumable_fit checkpoint.running.save
        checkpoint.running.versions data.batches.prefetch data.loading.class_names data.loading.inputs
        data.loading.load data.loading.load_splits data.loading.splits data.mapped.mapped data.public.read
        data.subpopulations.numbered data.subpopulations.shifted data.subpopulations.targets hierarchy.tree.load
        nn.weights.loading.load privacy.reports.from_json
        files.remedy files.reserve files.written
    """,
    "takes no array and no number, but functions, names or nothing at all": """
        compression.hybrid_net.recentre continual.protocol.compiled continual.protocol.descent
        continual.protocol.task_loss core.attacks.attack.bound core.capture.static.named core.closures.current
        core.compress.as_vector core.compress.identity core.compress.sign core.exchange.mesh core.kinks.has_kinks
        core.losses.cross_entropy core.moments.of_rows core.programs.collectives core.programs.flops
        core.programs.memory core.quantize.observer core.topology.graphs.from_networkx core.topology.graphs.torus
        core.topology.named.dyck core.topology.named.florentine core.topology.named.petersen
        decentralized.idkd.distillation decentralized.soft_labels.nbytes decentralized.state.classification
        federated.fedavg.classification federated.fedavg.every federated.tofu.uplink hardware.adc_pruning.masked
        hardware.adc_pruning.objective hardware.waveform.durations hierarchy.conditional.in_turn
        hierarchy.conditional.sequential label_noise.mixup.mixup label_noise.sam.sam lazy.modules
        nn.layers.spiking.fire nn.model.from_function nn.model.from_linen nn.model.from_nnx ood.auxiliary_class.aux
        ood.auxiliary_class.aux_max ood.detectors.feature ood.detectors.rows ood.detectors.stored
        ood.detectors.together ood.detectors.wide ood.mahalanobis.mahalanobis ood.scores.entropy ood.scores.maxlogit
        ood.scores.of_logits parallel.asap.policies.asynchronous parallel.asap.policies.bsp
        privacy.clipping.of_params privacy.shadows.stacked robustness.ot_classifier.network
        robustness.ot_classifier.noisy robustness.ot_classifier.part robustness.trend.voters
        training.augment.prepare training.minimise.mean_loss training.recipe.optimizer training.state.variables
        trees.map_with_path core.turns.one_by_one
    """,
    "one more name of what is fuzzed through methods.build or optimizer_of": """
        decentralized.cga.cga decentralized.choco_sgd.choco_sgd decentralized.deep_squeeze.deep_squeeze
        decentralized.gossip.adapt_then_combine decentralized.gossip.d_psgd decentralized.low_precision.gossip_only
        decentralized.low_precision.low_precision decentralized.ngc.ngc decentralized.push_sum.push_sum
        decentralized.qgm.qgm
    """,
    "devices, meshes and processes: tests/core/test_exchange.py, test_meshes.py, tests/parallel": """
        core.exchange.copies core.exchange.fetch core.exchange.place core.exchange.pmap core.exchange.shard_map
        core.exchange.spread core.exchange.stack core.exchange.vmap core.meshes.automatic core.meshes.brought
        core.meshes.by_sample core.meshes.entered core.meshes.hidden core.meshes.home core.meshes.like
        core.meshes.moved core.meshes.returned core.meshes.spec core.meshes.within core.moments.psum
        parallel.asap.local.classifier parallel.asap.local.classifier_step parallel.asap.local.sgd_step
        parallel.asap.policies.plan parallel.asap.processes.run_processes parallel.asap.simulator.simulate
        parallel.asap.threads.run_threads parallel.asap.traces.staleness parallel.asap.traces.when
        parallel.asap.worker.synchronous parallel.splitbrain.baselines.annotated_loss
        parallel.splitbrain.baselines.fsdp_specs parallel.splitbrain.baselines.plain_loss
        parallel.splitbrain.exchanges.modulo_gather parallel.splitbrain.exchanges.modulo_scatter
        parallel.splitbrain.exchanges.own_rows parallel.splitbrain.exchanges.shard_gather
        parallel.splitbrain.exchanges.shard_own parallel.splitbrain.loss.hybrid_loss
        parallel.splitbrain.planning.plan parallel.splitbrain.predict.comm_model
        parallel.splitbrain.predict.memory_model parallel.splitbrain.shards.gather_params
        parallel.splitbrain.shards.grid parallel.splitbrain.shards.pad_params parallel.splitbrain.shards.param_specs
        parallel.splitbrain.shards.shard_params parallel.splitbrain.step.compile_step
        parallel.splitbrain.step.state_specs parallel.splitbrain.step.train_step
        core.meshes.copied core.meshes.from_rows core.meshes.local core.meshes.one_copy core.meshes.over_samples
        core.meshes.several core.meshes.splits_samples core.processes.finished core.processes.first
        core.processes.gathered core.processes.here core.processes.part core.processes.stacked core.processes.told
    """,
    "trains, attacks or scores for seconds a call; its own tests refuse bad data in the first line": """
        compression.channel_groups.channel_groups compression.factorised.factorised_model
        compression.hybrid_net.pack_network compression.hybrid_net.response_spectra compression.pca_design.spectra
        continual.baselines.multitask.multitask continual.extract.extract_task continual.leak.leak
        continual.protocol.run continual.space.space_learner decentralized.codes.probe decentralized.codes.usage
        decentralized.idkd.idkd decentralized.labelling.homogenizer decentralized.protocol.run hardware.circuit.fit
        hardware.circuit.run_circuit hardware.conversion.run_converted hardware.snapping.sensitivity
        memorization.stability.leave_one_out privacy.audit.plant privacy.audit.scores privacy.dp_sgd.fit
        privacy.shadows.logits privacy.shadows.train robustness.audit.audit robustness.audit.joined
        robustness.audit.over_strengths robustness.audit.power_of robustness.ot_classifier.ot_classifier
        robustness.ot_classifier.train_epoch spiking.temporal_pruning.shorten training.fit.epoch_of
        training.fit.initial_carries training.many.train_many training.minimise.repeat
        unlearning.baselines.descent.finetune unlearning.baselines.descent.random_labels
        unlearning.baselines.descent.retrain unlearning.baselines.last_layers.cf_k
        unlearning.baselines.last_layers.eu_k unlearning.baselines.neggrad.neggrad
        unlearning.baselines.neggrad.neggrad_plus unlearning.baselines.salun.salun unlearning.baselines.scrub.scrub
        unlearning.baselines.ssd.ssd unlearning.baselines.unsir.unsir
    """,
    "called inside compiled steps, on arrays that the method of the step made": """
        continual.baselines.er.fill continual.baselines.er.with_buffer continual.baselines.hat.final
        continual.baselines.hat.masked continual.baselines.hat.of_task continual.baselines.hat.shielded
        continual.baselines.ogd.append continual.baselines.owm.shrink continual.protocol.descend
        decentralized.choco_sgd.choco_mixing decentralized.choco_sgd.choco_round decentralized.choco_sgd.choco_start
        decentralized.deep_squeeze.deep_squeeze_round decentralized.gossip.neighbours decentralized.gossip.weighted
        decentralized.idkd.draw decentralized.low_precision.compressed_round decentralized.ngc.send
        decentralized.protocol.state_of decentralized.state.gradient decentralized.state.start
        decentralized.train.compiled decentralized.train.judge decentralized.train.stacked
        decentralized.state.of_agents decentralized.train.trainer decentralized.train.uniform
        continual.space.commit continual.space.core continual.space.effective continual.space.freeze
        continual.space.held continual.space.with_params continual.trgp.begin_task continual.trgp.effective
        continual.trgp.end_task continual.trgp.held continual.trgp.rescaled continual.trgp.scales_of
        core.attacks.objectives.ascent core.attacks.objectives.scores core.attacks.pgd.steps_of
        nn.layers.binary.unpacked_codes nn.layers.quantized.bifurcated nn.layers.quantized.coarse_gradient
        spiking.pruning.channel_moments spiking.pruning.project
    """,
    "walks the program of a network; what cannot be walked is tried in tests/core/test_capture_refused.py": """
        compression.hybrid_net.layer_bits compression.hybrid_net.quantised_leaves compression.pca_design.chain_macs
        continual.extract.channels continual.extract.is_head continual.extract.narrowed
        continual.extract.space_masks continual.leak.interference continual.projection.beside
        continual.projection.held continual.projection.plan continual.projection.project continual.projection.uncast
        continual.projection.under core.capture.records.collect core.capture.records.layers
        core.capture.records.observe core.capture.records.record core.capture.replace.factorise
        core.capture.replace.kernels core.capture.replace.replace core.capture.replace.run_factorised
        core.capture.replace.write_kernels core.convolve.convolve core.convolve.derives_plainly core.convolve.kept
        core.costs.energy core.costs.layer_macs hardware.adc_pruning.kernels hardware.adc_pruning.mapped
        hardware.adc_pruning.write hardware.circuit.group_sums hardware.circuit.row_weights
        hardware.sram.channel_first hardware.sram.convert hardware.sram.parts_of hardware.sram.product
        spiking.energy.events spiking.energy.events_by_product spiking.energy.layer_macs
        spiking.energy.spiking_energy spiking.fold.fold spiking.follow.chain spiking.follow.follow
        spiking.network.drive spiking.network.spiking
    """,
}
