# Completion of flow in fish. Written by scripts/write_completions.py; do not change it by hand.
complete -c flow -f
complete -c flow -n __fish_use_subcommand -a run -d 'train, evaluate and write a report'
complete -c flow -n '__fish_seen_subcommand_from run' -f -a 'flow local fedavg fedavgft fedprox ditto apfl privategate lgfedavg fedper fedrep fedsim fedalt partialfed fedbabu perfedavg fedrecon dynamic_routing ffgg fedfomo pfedhn pfedhnpc hypcluster knnper ngram fedyogi fedadam fedadagrad'
complete -c flow -n __fish_use_subcommand -a report -d 'write the report of a run again'
complete -c flow -n '__fish_seen_subcommand_from report' -a '(__fish_complete_directories)'
complete -c flow -n __fish_use_subcommand -a compare -d 'run several side by side and write one table'
complete -c flow -n '__fish_seen_subcommand_from compare' -f -a 'flow local fedavg fedavgft fedprox ditto apfl privategate lgfedavg fedper fedrep fedsim fedalt partialfed fedbabu perfedavg fedrecon dynamic_routing ffgg fedfomo pfedhn pfedhnpc hypcluster knnper ngram fedyogi fedadam fedadagrad'
complete -c flow -n __fish_use_subcommand -a prepare -d 'read data and keep them prepared, which `flow run` otherwise does when it first meets them'
complete -c flow -n __fish_use_subcommand -a data -d 'describe a data set before anything is trained on it'
complete -c flow -n '__fish_seen_subcommand_from data' -F -a 'shakespeare synthetic'
complete -c flow -n __fish_use_subcommand -a adapt -d 'personalize a run\'s model for one client'
complete -c flow -n '__fish_seen_subcommand_from adapt' -a '(__fish_complete_directories)'
complete -c flow -n __fish_use_subcommand -a predict -d 'what follows a text by an adapted model'
complete -c flow -n '__fish_seen_subcommand_from predict' -a '(__fish_complete_directories)'
complete -c flow -n __fish_use_subcommand -a export -d 'write an adapted model for other programs'
complete -c flow -n '__fish_seen_subcommand_from export' -a '(__fish_complete_directories)'
complete -c flow -n __fish_use_subcommand -a serve -d 'a page on this machine that goes on with what one types, by an adapted model'
complete -c flow -n '__fish_seen_subcommand_from serve' -a '(__fish_complete_directories)'
complete -c flow -n __fish_use_subcommand -a watch -d 'a live page on this machine with the curves of a run, or of several, as they grow'
complete -c flow -n '__fish_seen_subcommand_from watch' -a '(__fish_complete_directories)'
complete -c flow -n __fish_use_subcommand -a deploy -d 'write a Flower app that runs the rounds on real devices, each with its own data (docs/deploy.md)'
complete -c flow -n __fish_use_subcommand -a doctor -d 'say whether this machine and this installation are well, and as fast as their kind'
complete -c flow -n __fish_use_subcommand -a completion -d 'print the script by which bash, zsh or fish completes the command line'
complete -c flow -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'
complete -c flow -n '__fish_seen_subcommand_from run' -l help
complete -c flow -n '__fish_seen_subcommand_from run' -l rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l cohort -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l validation-share -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l seed -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l evaluate-every -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l evaluate-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l final-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dropout -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l stragglers -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l split -r -f -a 'random time'
complete -c flow -n '__fish_seen_subcommand_from run' -l late -r -f -a 'drop partial'
complete -c flow -n '__fish_seen_subcommand_from run' -l clock -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l deadline -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l wait-for -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l async -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l compress -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l target -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l metric -r -F -a 'accuracy loss perplexity top3 f1'
complete -c flow -n '__fish_seen_subcommand_from run' -l min-texts -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l checkpoint-every -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l chunk -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l client-memory -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l threads -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l model -r -F
complete -c flow -n '__fish_seen_subcommand_from run' -l head -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l json
complete -c flow -n '__fish_seen_subcommand_from run' -l preset -r -f -a 'reddit shakespeare stackoverflow None'
complete -c flow -n '__fish_seen_subcommand_from run' -l log -r -f -a 'csv mlflow tensorboard trackio wandb'
complete -c flow -n '__fish_seen_subcommand_from run' -l folder -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from run' -l resume -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from run' -l changed-file
complete -c flow -n '__fish_seen_subcommand_from run' -l lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l batch-size -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l clip -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l data -r -F -a 'shakespeare synthetic'
complete -c flow -n '__fish_seen_subcommand_from run' -l sequence-length -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l vocabulary-size -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l oov-buckets -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l max-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l tokenizer -r -F -a 'words characters'
complete -c flow -n '__fish_seen_subcommand_from run' -l clients -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l sequences -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l data-seed -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l client-column -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l text-column -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l time-column -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l group-column -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l label-column -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l protocol -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l authors -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l embedding-dim -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l hidden-size -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l num-layers -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l projection-dim -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dtype -r -f -a 'bfloat16 float32 float64'
complete -c flow -n '__fish_seen_subcommand_from run' -l device -r -f -a 'cpu cuda'
complete -c flow -n '__fish_seen_subcommand_from run' -l backend -r -f -a 'auto reference cpu triton cuda'
complete -c flow -n '__fish_seen_subcommand_from run' -l server -r -f -a 'adagrad adam average yogi'
complete -c flow -n '__fish_seen_subcommand_from run' -l server-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l tau -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l aggregator -r -f -a 'centered_clipping geometric_median krum mean median trimmed_mean'
complete -c flow -n '__fish_seen_subcommand_from run' -l bucket-size -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l byzantine -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l clip-radius -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l clip-steps -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l weiszfeld-steps -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l weiszfeld-smoothing -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l lr-schedule -r -f -a 'constant cosine linear step'
complete -c flow -n '__fish_seen_subcommand_from run' -l lr-warmup -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l lr-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l lr-final -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l lr-step-every -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l lr-step-factor -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l server-lr-schedule -r -f -a 'constant cosine linear step'
complete -c flow -n '__fish_seen_subcommand_from run' -l server-lr-warmup -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l server-lr-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l server-lr-final -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l server-lr-step-every -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l server-lr-step-factor -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-delta -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-noise -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-quantile -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-clip-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-count-noise -r -f
complete -c flow -n '__fish_seen_subcommand_from run' -l dp-mechanism -r -f -a 'gaussian tree'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l variant -r -f -a 'decoupled neurips workshop'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l gamma -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l temperature -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l local-share -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l ablation -r -f -a 'client instance none'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l router-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l router-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l router-every -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l router-share -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l gate -r -f -a 'both cell constant local output None'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l local-weight -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l memory
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l no-memory
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l memory-tokens -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l adapt-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l adapt-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from flow' -l through -r -f -a 'local mixture'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from local' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedavgft' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedprox' -l mu -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ditto' -l lam -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l alpha -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l adaptive
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from apfl' -l no-adaptive
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l gate-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from privategate' -l new-private -r -f -a 'initial received'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from lgfedavg' -l pretrain-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedper' -l new-head -r -f -a 'average initial'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l head-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrep' -l new-head -r -f -a 'average initial'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l pretrain-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedsim' -l private -r -f -a 'body embedding gru head'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l pretrain-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l private -r -f -a 'body embedding gru head'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l private-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedalt' -l private-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l strategy -r -f -a 'adaptive body embedding gru head'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l strategy-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l strategy-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l temperature -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from partialfed' -l temperature-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedbabu' -l tuned-part -r -f -a 'all body head'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from perfedavg' -l inner-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l recon-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedrecon' -l recon-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l temperature -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l routed-head
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from dynamic_routing' -l no-routed-head
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l private -r -f -a 'body head'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l start -r -f -a 'initial kept'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l shared-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l pairs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l asynchronous
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l no-asynchronous
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ffgg' -l delay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l models -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l epsilon-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l weighing-share -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l distance -r -f -a 'l1 l2'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l mean-candidate
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedfomo' -l no-mean-candidate
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l steps -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l generated -r -f -a 'all gru'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l hyper-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l vector-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l hyper-momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l hyper-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l server-steps -r -f -a 'one by one together'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l hyper-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l vector-size -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l vector-scale -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l hyper-width -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l hyper-layers -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l new-exchanges -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhn' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l steps -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l generated -r -f -a 'all gru'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l hyper-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l vector-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l hyper-momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l hyper-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l server-steps -r -f -a 'one by one together'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l hyper-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l vector-size -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l vector-scale -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l hyper-width -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l hyper-layers -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l new-exchanges -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from pfedhnpc' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l clusters -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from hypcluster' -l random-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l neighbours -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l lam -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l scale -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from knnper' -l capacity -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l lam -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from ngram' -l memory-tokens -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedyogi' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedyogi' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedyogi' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedyogi' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedyogi' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedyogi' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedyogi' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadam' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadam' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadam' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadam' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadam' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadam' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadam' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadagrad' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadagrad' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadagrad' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadagrad' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadagrad' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadagrad' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from run; and __fish_seen_subcommand_from fedadagrad' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from report' -l help
complete -c flow -n '__fish_seen_subcommand_from report' -l json
complete -c flow -n '__fish_seen_subcommand_from compare' -l help
complete -c flow -n '__fish_seen_subcommand_from compare' -l rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l cohort -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l validation-share -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l seed -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l evaluate-every -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l evaluate-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l final-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dropout -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l stragglers -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l split -r -f -a 'random time'
complete -c flow -n '__fish_seen_subcommand_from compare' -l late -r -f -a 'drop partial'
complete -c flow -n '__fish_seen_subcommand_from compare' -l clock -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l deadline -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l wait-for -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l async -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l compress -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l target -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l metric -r -F -a 'accuracy loss perplexity top3 f1'
complete -c flow -n '__fish_seen_subcommand_from compare' -l min-texts -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l checkpoint-every -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l chunk -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l client-memory -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l threads -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l model -r -F
complete -c flow -n '__fish_seen_subcommand_from compare' -l head -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l json
complete -c flow -n '__fish_seen_subcommand_from compare' -l preset -r -f -a 'reddit shakespeare stackoverflow None'
complete -c flow -n '__fish_seen_subcommand_from compare' -l log -r -f -a 'csv mlflow tensorboard trackio wandb'
complete -c flow -n '__fish_seen_subcommand_from compare' -l list
complete -c flow -n '__fish_seen_subcommand_from compare' -l seeds -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l settings -r -F
complete -c flow -n '__fish_seen_subcommand_from compare' -l tune
complete -c flow -n '__fish_seen_subcommand_from compare' -l trials -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l tune-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l tune-by -r -f -a 'accuracy loss perplexity top3 f1'
complete -c flow -n '__fish_seen_subcommand_from compare' -l tuner -r -f -a 'optuna steps'
complete -c flow -n '__fish_seen_subcommand_from compare' -l against -r -f -a 'flow local fedavg fedavgft fedprox ditto apfl privategate lgfedavg fedper fedrep fedsim fedalt partialfed fedbabu perfedavg fedrecon dynamic_routing ffgg fedfomo pfedhn pfedhnpc hypcluster knnper ngram fedyogi fedadam fedadagrad'
complete -c flow -n '__fish_seen_subcommand_from compare' -l folder -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from compare' -l resume -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from compare' -l changed-file
complete -c flow -n '__fish_seen_subcommand_from compare' -l lr -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l batch-size -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l clip -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l data -r -F -a 'shakespeare synthetic'
complete -c flow -n '__fish_seen_subcommand_from compare' -l sequence-length -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l vocabulary-size -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l oov-buckets -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l max-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l tokenizer -r -F -a 'words characters'
complete -c flow -n '__fish_seen_subcommand_from compare' -l clients -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l sequences -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l data-seed -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l client-column -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l text-column -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l time-column -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l group-column -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l label-column -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l protocol -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l authors -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l embedding-dim -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l hidden-size -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l num-layers -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l projection-dim -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dtype -r -f -a 'bfloat16 float32 float64'
complete -c flow -n '__fish_seen_subcommand_from compare' -l device -r -f -a 'cpu cuda'
complete -c flow -n '__fish_seen_subcommand_from compare' -l backend -r -f -a 'auto reference cpu triton cuda'
complete -c flow -n '__fish_seen_subcommand_from compare' -l server -r -f -a 'adagrad adam average yogi'
complete -c flow -n '__fish_seen_subcommand_from compare' -l server-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l tau -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l aggregator -r -f -a 'centered_clipping geometric_median krum mean median trimmed_mean'
complete -c flow -n '__fish_seen_subcommand_from compare' -l bucket-size -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l byzantine -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l clip-radius -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l clip-steps -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l weiszfeld-steps -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l weiszfeld-smoothing -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l lr-schedule -r -f -a 'constant cosine linear step'
complete -c flow -n '__fish_seen_subcommand_from compare' -l lr-warmup -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l lr-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l lr-final -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l lr-step-every -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l lr-step-factor -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l server-lr-schedule -r -f -a 'constant cosine linear step'
complete -c flow -n '__fish_seen_subcommand_from compare' -l server-lr-warmup -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l server-lr-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l server-lr-final -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l server-lr-step-every -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l server-lr-step-factor -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-delta -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-noise -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-quantile -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-clip-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-count-noise -r -f
complete -c flow -n '__fish_seen_subcommand_from compare' -l dp-mechanism -r -f -a 'gaussian tree'
complete -c flow -n '__fish_seen_subcommand_from prepare' -l help
complete -c flow -n '__fish_seen_subcommand_from prepare' -l data -r -F -a 'shakespeare synthetic'
complete -c flow -n '__fish_seen_subcommand_from prepare' -l sequence-length -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l vocabulary-size -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l oov-buckets -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l max-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l tokenizer -r -F -a 'words characters'
complete -c flow -n '__fish_seen_subcommand_from prepare' -l clients -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l sequences -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l data-seed -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l client-column -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l text-column -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l time-column -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l group-column -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l label-column -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l protocol -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l authors -r -f
complete -c flow -n '__fish_seen_subcommand_from prepare' -l json
complete -c flow -n '__fish_seen_subcommand_from data' -l help
complete -c flow -n '__fish_seen_subcommand_from data' -l data -r -F -a 'shakespeare synthetic'
complete -c flow -n '__fish_seen_subcommand_from data' -l sequence-length -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l vocabulary-size -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l oov-buckets -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l max-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l tokenizer -r -F -a 'words characters'
complete -c flow -n '__fish_seen_subcommand_from data' -l clients -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l sequences -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l data-seed -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l client-column -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l text-column -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l time-column -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l group-column -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l label-column -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l protocol -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l authors -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l json
complete -c flow -n '__fish_seen_subcommand_from data' -l sample -r -f
complete -c flow -n '__fish_seen_subcommand_from data' -l folder -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from adapt' -l help
complete -c flow -n '__fish_seen_subcommand_from adapt' -l model -r -F
complete -c flow -n '__fish_seen_subcommand_from adapt' -l head -r -f
complete -c flow -n '__fish_seen_subcommand_from adapt' -l json
complete -c flow -n '__fish_seen_subcommand_from adapt' -l out -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from adapt' -l texts -r -F
complete -c flow -n '__fish_seen_subcommand_from adapt' -l client -r -f
complete -c flow -n '__fish_seen_subcommand_from adapt' -l client-column -r -f
complete -c flow -n '__fish_seen_subcommand_from adapt' -l text-column -r -f
complete -c flow -n '__fish_seen_subcommand_from adapt' -l time-column -r -f
complete -c flow -n '__fish_seen_subcommand_from adapt' -l label-column -r -f
complete -c flow -n '__fish_seen_subcommand_from adapt' -l data -r -F -a 'shakespeare synthetic'
complete -c flow -n '__fish_seen_subcommand_from adapt' -l metric -r -F -a 'accuracy loss perplexity top3 f1'
complete -c flow -n '__fish_seen_subcommand_from adapt' -l changed-file
complete -c flow -n '__fish_seen_subcommand_from predict' -l help
complete -c flow -n '__fish_seen_subcommand_from predict' -l model -r -F
complete -c flow -n '__fish_seen_subcommand_from predict' -l head -r -f
complete -c flow -n '__fish_seen_subcommand_from predict' -l algorithm -r -F
complete -c flow -n '__fish_seen_subcommand_from predict' -l json
complete -c flow -n '__fish_seen_subcommand_from predict' -l top -r -f
complete -c flow -n '__fish_seen_subcommand_from predict' -l complete -r -f
complete -c flow -n '__fish_seen_subcommand_from predict' -l score -r -F
complete -c flow -n '__fish_seen_subcommand_from predict' -l client -r -f
complete -c flow -n '__fish_seen_subcommand_from predict' -l client-column -r -f
complete -c flow -n '__fish_seen_subcommand_from predict' -l text-column -r -f
complete -c flow -n '__fish_seen_subcommand_from predict' -l time-column -r -f
complete -c flow -n '__fish_seen_subcommand_from predict' -l label-column -r -f
complete -c flow -n '__fish_seen_subcommand_from export' -l help
complete -c flow -n '__fish_seen_subcommand_from export' -l model -r -F
complete -c flow -n '__fish_seen_subcommand_from export' -l head -r -f
complete -c flow -n '__fish_seen_subcommand_from export' -l algorithm -r -F
complete -c flow -n '__fish_seen_subcommand_from export' -l json
complete -c flow -n '__fish_seen_subcommand_from export' -l out -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from export' -l format -r -f -a 'onnx torch'
complete -c flow -n '__fish_seen_subcommand_from serve' -l help
complete -c flow -n '__fish_seen_subcommand_from serve' -l model -r -F
complete -c flow -n '__fish_seen_subcommand_from serve' -l head -r -f
complete -c flow -n '__fish_seen_subcommand_from serve' -l algorithm -r -F
complete -c flow -n '__fish_seen_subcommand_from serve' -l port -r -f
complete -c flow -n '__fish_seen_subcommand_from watch' -l help
complete -c flow -n '__fish_seen_subcommand_from watch' -l port -r -f
complete -c flow -n '__fish_seen_subcommand_from watch' -l open
complete -c flow -n '__fish_seen_subcommand_from deploy' -l help
complete -c flow -n '__fish_seen_subcommand_from deploy' -l rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l cohort -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l validation-share -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l seed -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l evaluate-every -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l evaluate-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l final-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dropout -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l stragglers -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l split -r -f -a 'random time'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l late -r -f -a 'drop partial'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l clock -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l deadline -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l wait-for -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l async -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l compress -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l target -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l metric -r -F -a 'accuracy loss perplexity top3 f1'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l min-texts -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l checkpoint-every -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l chunk -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l client-memory -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l threads -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l model -r -F
complete -c flow -n '__fish_seen_subcommand_from deploy' -l head -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l json
complete -c flow -n '__fish_seen_subcommand_from deploy' -l preset -r -f -a 'reddit shakespeare stackoverflow None'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l app -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l batch-size -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l clip -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l data -r -F -a 'shakespeare synthetic'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l sequence-length -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l vocabulary-size -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l oov-buckets -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l max-clients -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l tokenizer -r -F -a 'words characters'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l clients -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l sequences -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l data-seed -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l client-column -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l text-column -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l time-column -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l group-column -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l label-column -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l protocol -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l authors -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l embedding-dim -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l hidden-size -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l num-layers -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l projection-dim -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dtype -r -f -a 'bfloat16 float32 float64'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l device -r -f -a 'cpu cuda'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l backend -r -f -a 'auto reference cpu triton cuda'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server -r -f -a 'adagrad adam average yogi'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l tau -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l aggregator -r -f -a 'centered_clipping geometric_median krum mean median trimmed_mean'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l bucket-size -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l byzantine -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l clip-radius -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l clip-steps -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l weiszfeld-steps -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l weiszfeld-smoothing -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l lr-schedule -r -f -a 'constant cosine linear step'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l lr-warmup -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l lr-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l lr-final -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l lr-step-every -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l lr-step-factor -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server-lr-schedule -r -f -a 'constant cosine linear step'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server-lr-warmup -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server-lr-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server-lr-final -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server-lr-step-every -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l server-lr-step-factor -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-delta -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-noise -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-quantile -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-clip-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-count-noise -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l dp-mechanism -r -f -a 'gaussian tree'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l folder -r -a '(__fish_complete_directories)'
complete -c flow -n '__fish_seen_subcommand_from deploy' -l nodes -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l wait -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l timeout -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy' -l secagg
complete -c flow -n '__fish_seen_subcommand_from deploy' -l no-secagg
complete -c flow -n '__fish_seen_subcommand_from deploy' -l secagg-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l variant -r -f -a 'decoupled neurips workshop'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l gamma -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l temperature -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l local-share -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l ablation -r -f -a 'client instance none'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l router-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l router-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l router-every -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l router-share -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l gate -r -f -a 'both cell constant local output None'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l local-weight -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l memory
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l no-memory
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l memory-tokens -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l adapt-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l adapt-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from flow' -l through -r -f -a 'local mixture'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from local' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedavgft' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedprox' -l mu -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ditto' -l lam -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l alpha -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l adaptive
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from apfl' -l no-adaptive
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l gate-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from privategate' -l new-private -r -f -a 'initial received'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from lgfedavg' -l pretrain-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedper' -l new-head -r -f -a 'average initial'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l head-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrep' -l new-head -r -f -a 'average initial'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l pretrain-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedsim' -l private -r -f -a 'body embedding gru head'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l pretrain-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l private -r -f -a 'body embedding gru head'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l private-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedalt' -l private-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l strategy -r -f -a 'adaptive body embedding gru head'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l strategy-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l strategy-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l temperature -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from partialfed' -l temperature-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedbabu' -l tuned-part -r -f -a 'all body head'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from perfedavg' -l inner-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l recon-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedrecon' -l recon-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l temperature -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l routed-head
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from dynamic_routing' -l no-routed-head
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l private -r -f -a 'body head'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l start -r -f -a 'initial kept'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l shared-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l pairs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l asynchronous
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l no-asynchronous
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ffgg' -l delay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l models -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l epsilon-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l weighing-share -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l distance -r -f -a 'l1 l2'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l mean-candidate
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedfomo' -l no-mean-candidate
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l steps -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l generated -r -f -a 'all gru'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l hyper-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l vector-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l hyper-momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l hyper-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l server-steps -r -f -a 'one by one together'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l hyper-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l vector-size -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l vector-scale -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l hyper-width -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l hyper-layers -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l new-exchanges -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhn' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l steps -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l generated -r -f -a 'all gru'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l hyper-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l vector-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l hyper-momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l hyper-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l server-steps -r -f -a 'one by one together'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l hyper-clip -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l vector-size -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l vector-scale -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l hyper-width -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l hyper-layers -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l new-exchanges -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from pfedhnpc' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l personal-lr -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l personal-epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l clusters -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from hypcluster' -l random-rounds -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l neighbours -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l lam -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l scale -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from knnper' -l capacity -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l lam -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from ngram' -l memory-tokens -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedyogi' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedyogi' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedyogi' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedyogi' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedyogi' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedyogi' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedyogi' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadam' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadam' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadam' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadam' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadam' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadam' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadam' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadagrad' -l epochs -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadagrad' -l momentum -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadagrad' -l weight-decay -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadagrad' -l client-optimizer -r -f -a 'adam adamw sgd'
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadagrad' -l client-beta1 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadagrad' -l client-beta2 -r -f
complete -c flow -n '__fish_seen_subcommand_from deploy; and __fish_seen_subcommand_from fedadagrad' -l client-epsilon -r -f
complete -c flow -n '__fish_seen_subcommand_from doctor' -l help
complete -c flow -n '__fish_seen_subcommand_from doctor' -l json
complete -c flow -n '__fish_seen_subcommand_from doctor' -l benchmark
complete -c flow -n '__fish_seen_subcommand_from doctor' -l no-benchmark
complete -c flow -n '__fish_seen_subcommand_from completion' -l help
