# Completion of flow in bash. Written by scripts/write_completions.py; do not change it by hand.
_flow() {
  local IFS=$'\n'
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
  local algorithm="${COMP_WORDS[2]}" options="" words="" kind=""
  COMPREPLY=()
  if [ "$current" = "=" ]; then  # --option=value comes in three words
    current=""
  elif [ "$before" = "=" ]; then
    before="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "run${IFS}report${IFS}compare${IFS}prepare${IFS}data${IFS}adapt${IFS}predict${IFS}export${IFS}serve${IFS}watch${IFS}deploy${IFS}doctor${IFS}completion" -- "$current"))
    return
  fi
  case "$command:$before" in
    adapt:--client|adapt:--client-column|adapt:--head|adapt:--label-column|adapt:--text-column|adapt:--time-column|compare:--async|compare:--authors|compare:--batch-size|compare:--beta1|compare:--beta2|compare:--bucket-size|compare:--byzantine|compare:--checkpoint-every|compare:--chunk|compare:--client-column|compare:--client-memory|compare:--clients|compare:--clip|compare:--clip-radius|compare:--clip-steps|compare:--clock|compare:--cohort|compare:--compress|compare:--data-seed|compare:--deadline|compare:--dp-clip|compare:--dp-clip-lr|compare:--dp-count-noise|compare:--dp-delta|compare:--dp-epsilon|compare:--dp-noise|compare:--dp-quantile|compare:--dropout|compare:--embedding-dim|compare:--epochs|compare:--evaluate-clients|compare:--evaluate-every|compare:--final-clients|compare:--group-column|compare:--head|compare:--hidden-size|compare:--label-column|compare:--lr|compare:--lr-final|compare:--lr-rounds|compare:--lr-step-every|compare:--lr-step-factor|compare:--lr-warmup|compare:--max-clients|compare:--min-texts|compare:--num-layers|compare:--oov-buckets|compare:--projection-dim|compare:--protocol|compare:--rounds|compare:--seed|compare:--seeds|compare:--sequence-length|compare:--sequences|compare:--server-lr|compare:--server-lr-final|compare:--server-lr-rounds|compare:--server-lr-step-every|compare:--server-lr-step-factor|compare:--server-lr-warmup|compare:--stragglers|compare:--target|compare:--tau|compare:--text-column|compare:--threads|compare:--time-column|compare:--trials|compare:--tune-rounds|compare:--validation-share|compare:--vocabulary-size|compare:--wait-for|compare:--weiszfeld-smoothing|compare:--weiszfeld-steps|data:--authors|data:--client-column|data:--clients|data:--data-seed|data:--group-column|data:--label-column|data:--max-clients|data:--oov-buckets|data:--protocol|data:--sample|data:--sequence-length|data:--sequences|data:--text-column|data:--time-column|data:--vocabulary-size|deploy:--adapt-epochs|deploy:--adapt-lr|deploy:--alpha|deploy:--app|deploy:--async|deploy:--authors|deploy:--batch-size|deploy:--beta1|deploy:--beta2|deploy:--bucket-size|deploy:--byzantine|deploy:--capacity|deploy:--checkpoint-every|deploy:--chunk|deploy:--client-beta1|deploy:--client-beta2|deploy:--client-column|deploy:--client-epsilon|deploy:--client-memory|deploy:--clients|deploy:--clip|deploy:--clip-radius|deploy:--clip-steps|deploy:--clock|deploy:--clusters|deploy:--cohort|deploy:--compress|deploy:--data-seed|deploy:--deadline|deploy:--delay|deploy:--dp-clip|deploy:--dp-clip-lr|deploy:--dp-count-noise|deploy:--dp-delta|deploy:--dp-epsilon|deploy:--dp-noise|deploy:--dp-quantile|deploy:--dropout|deploy:--embedding-dim|deploy:--epochs|deploy:--epsilon|deploy:--epsilon-decay|deploy:--evaluate-clients|deploy:--evaluate-every|deploy:--final-clients|deploy:--gamma|deploy:--gate-lr|deploy:--group-column|deploy:--head|deploy:--head-epochs|deploy:--hidden-size|deploy:--hyper-clip|deploy:--hyper-decay|deploy:--hyper-layers|deploy:--hyper-lr|deploy:--hyper-momentum|deploy:--hyper-width|deploy:--inner-lr|deploy:--label-column|deploy:--lam|deploy:--local-share|deploy:--local-weight|deploy:--lr|deploy:--lr-final|deploy:--lr-rounds|deploy:--lr-step-every|deploy:--lr-step-factor|deploy:--lr-warmup|deploy:--max-clients|deploy:--memory-tokens|deploy:--min-texts|deploy:--models|deploy:--momentum|deploy:--mu|deploy:--neighbours|deploy:--new-exchanges|deploy:--nodes|deploy:--num-layers|deploy:--oov-buckets|deploy:--pairs|deploy:--personal-epochs|deploy:--personal-lr|deploy:--pretrain-rounds|deploy:--private-epochs|deploy:--private-lr|deploy:--projection-dim|deploy:--protocol|deploy:--random-rounds|deploy:--recon-epochs|deploy:--recon-lr|deploy:--rounds|deploy:--router-epochs|deploy:--router-every|deploy:--router-lr|deploy:--router-share|deploy:--scale|deploy:--secagg-clip|deploy:--seed|deploy:--sequence-length|deploy:--sequences|deploy:--server-lr|deploy:--server-lr-final|deploy:--server-lr-rounds|deploy:--server-lr-step-every|deploy:--server-lr-step-factor|deploy:--server-lr-warmup|deploy:--shared-lr|deploy:--steps|deploy:--stragglers|deploy:--strategy-epochs|deploy:--strategy-lr|deploy:--target|deploy:--tau|deploy:--temperature|deploy:--temperature-decay|deploy:--text-column|deploy:--threads|deploy:--time-column|deploy:--timeout|deploy:--validation-share|deploy:--vector-lr|deploy:--vector-scale|deploy:--vector-size|deploy:--vocabulary-size|deploy:--wait|deploy:--wait-for|deploy:--weighing-share|deploy:--weight-decay|deploy:--weiszfeld-smoothing|deploy:--weiszfeld-steps|export:--head|predict:--client|predict:--client-column|predict:--complete|predict:--head|predict:--label-column|predict:--text-column|predict:--time-column|predict:--top|prepare:--authors|prepare:--client-column|prepare:--clients|prepare:--data-seed|prepare:--group-column|prepare:--label-column|prepare:--max-clients|prepare:--oov-buckets|prepare:--protocol|prepare:--sequence-length|prepare:--sequences|prepare:--text-column|prepare:--time-column|prepare:--vocabulary-size|run:--adapt-epochs|run:--adapt-lr|run:--alpha|run:--async|run:--authors|run:--batch-size|run:--beta1|run:--beta2|run:--bucket-size|run:--byzantine|run:--capacity|run:--checkpoint-every|run:--chunk|run:--client-beta1|run:--client-beta2|run:--client-column|run:--client-epsilon|run:--client-memory|run:--clients|run:--clip|run:--clip-radius|run:--clip-steps|run:--clock|run:--clusters|run:--cohort|run:--compress|run:--data-seed|run:--deadline|run:--delay|run:--dp-clip|run:--dp-clip-lr|run:--dp-count-noise|run:--dp-delta|run:--dp-epsilon|run:--dp-noise|run:--dp-quantile|run:--dropout|run:--embedding-dim|run:--epochs|run:--epsilon|run:--epsilon-decay|run:--evaluate-clients|run:--evaluate-every|run:--final-clients|run:--gamma|run:--gate-lr|run:--group-column|run:--head|run:--head-epochs|run:--hidden-size|run:--hyper-clip|run:--hyper-decay|run:--hyper-layers|run:--hyper-lr|run:--hyper-momentum|run:--hyper-width|run:--inner-lr|run:--label-column|run:--lam|run:--local-share|run:--local-weight|run:--lr|run:--lr-final|run:--lr-rounds|run:--lr-step-every|run:--lr-step-factor|run:--lr-warmup|run:--max-clients|run:--memory-tokens|run:--min-texts|run:--models|run:--momentum|run:--mu|run:--neighbours|run:--new-exchanges|run:--num-layers|run:--oov-buckets|run:--pairs|run:--personal-epochs|run:--personal-lr|run:--pretrain-rounds|run:--private-epochs|run:--private-lr|run:--projection-dim|run:--protocol|run:--random-rounds|run:--recon-epochs|run:--recon-lr|run:--rounds|run:--router-epochs|run:--router-every|run:--router-lr|run:--router-share|run:--scale|run:--seed|run:--sequence-length|run:--sequences|run:--server-lr|run:--server-lr-final|run:--server-lr-rounds|run:--server-lr-step-every|run:--server-lr-step-factor|run:--server-lr-warmup|run:--shared-lr|run:--steps|run:--stragglers|run:--strategy-epochs|run:--strategy-lr|run:--target|run:--tau|run:--temperature|run:--temperature-decay|run:--text-column|run:--threads|run:--time-column|run:--validation-share|run:--vector-lr|run:--vector-scale|run:--vector-size|run:--vocabulary-size|run:--wait-for|run:--weighing-share|run:--weight-decay|run:--weiszfeld-smoothing|run:--weiszfeld-steps|serve:--head|serve:--port|watch:--port) words="" kind="" ;;
    adapt:--model|adapt:--texts|compare:--model|compare:--settings|deploy:--model|export:--algorithm|export:--model|predict:--algorithm|predict:--model|predict:--score|run:--model|serve:--algorithm|serve:--model) words="" kind="FILE" ;;
    adapt:--metric|compare:--metric|deploy:--metric|run:--metric) words="accuracy${IFS}loss${IFS}perplexity${IFS}top3${IFS}f1" kind="FILE" ;;
    adapt:--data|compare:--data|data:--data|deploy:--data|prepare:--data|run:--data) words="shakespeare${IFS}synthetic" kind="FILE" ;;
    compare:--tokenizer|data:--tokenizer|deploy:--tokenizer|prepare:--tokenizer|run:--tokenizer) words="words${IFS}characters" kind="FILE" ;;
    adapt:--out|compare:--folder|compare:--resume|data:--folder|deploy:--folder|export:--out|run:--folder|run:--resume) words="" kind="FOLDER" ;;
    compare:--tune-by) words="accuracy${IFS}loss${IFS}perplexity${IFS}top3${IFS}f1" kind="" ;;
    compare:--server|deploy:--server|run:--server) words="adagrad${IFS}adam${IFS}average${IFS}yogi" kind="" ;;
    deploy:--client-optimizer|run:--client-optimizer) words="adam${IFS}adamw${IFS}sgd" kind="" ;;
    deploy:--strategy|run:--strategy) words="adaptive${IFS}body${IFS}embedding${IFS}gru${IFS}head" kind="" ;;
    deploy:--tuned-part|run:--tuned-part) words="all${IFS}body${IFS}head" kind="" ;;
    deploy:--generated|run:--generated) words="all${IFS}gru" kind="" ;;
    compare:--backend|deploy:--backend|run:--backend) words="auto${IFS}reference${IFS}cpu${IFS}triton${IFS}cuda" kind="" ;;
    deploy:--new-head|run:--new-head) words="average${IFS}initial" kind="" ;;
    compare:--dtype|deploy:--dtype|run:--dtype) words="bfloat16${IFS}float32${IFS}float64" kind="" ;;
    deploy:--private|run:--private) words="body${IFS}embedding${IFS}gru${IFS}head" kind="" ;;
    deploy:--gate|run:--gate) words="both${IFS}cell${IFS}constant${IFS}local${IFS}output${IFS}None" kind="" ;;
    compare:--aggregator|deploy:--aggregator|run:--aggregator) words="centered_clipping${IFS}geometric_median${IFS}krum${IFS}mean${IFS}median${IFS}trimmed_mean" kind="" ;;
    deploy:--ablation|run:--ablation) words="client${IFS}instance${IFS}none" kind="" ;;
    compare:--lr-schedule|compare:--server-lr-schedule|deploy:--lr-schedule|deploy:--server-lr-schedule|run:--lr-schedule|run:--server-lr-schedule) words="constant${IFS}cosine${IFS}linear${IFS}step" kind="" ;;
    compare:--device|deploy:--device|run:--device) words="cpu${IFS}cuda" kind="" ;;
    compare:--log|run:--log) words="csv${IFS}mlflow${IFS}tensorboard${IFS}trackio${IFS}wandb" kind="" ;;
    deploy:--variant|run:--variant) words="decoupled${IFS}neurips${IFS}workshop" kind="" ;;
    compare:--late|deploy:--late|run:--late) words="drop${IFS}partial" kind="" ;;
    compare:--against) words="flow${IFS}local${IFS}fedavg${IFS}fedavgft${IFS}fedprox${IFS}ditto${IFS}apfl${IFS}privategate${IFS}lgfedavg${IFS}fedper${IFS}fedrep${IFS}fedsim${IFS}fedalt${IFS}partialfed${IFS}fedbabu${IFS}perfedavg${IFS}fedrecon${IFS}dynamic_routing${IFS}ffgg${IFS}fedfomo${IFS}pfedhn${IFS}pfedhnpc${IFS}hypcluster${IFS}knnper${IFS}ngram${IFS}fedyogi${IFS}fedadam${IFS}fedadagrad" kind="" ;;
    compare:--dp-mechanism|deploy:--dp-mechanism|run:--dp-mechanism) words="gaussian${IFS}tree" kind="" ;;
    deploy:--start|run:--start) words="initial${IFS}kept" kind="" ;;
    deploy:--new-private|run:--new-private) words="initial${IFS}received" kind="" ;;
    deploy:--distance|run:--distance) words="l1${IFS}l2" kind="" ;;
    deploy:--through|run:--through) words="local${IFS}mixture" kind="" ;;
    deploy:--server-steps|run:--server-steps) words="one by one${IFS}together" kind="" ;;
    export:--format) words="onnx${IFS}torch" kind="" ;;
    compare:--tuner) words="optuna${IFS}steps" kind="" ;;
    compare:--split|deploy:--split|run:--split) words="random${IFS}time" kind="" ;;
    compare:--preset|deploy:--preset|run:--preset) words="reddit${IFS}shakespeare${IFS}stackoverflow${IFS}None" kind="" ;;
    *)
      case "$command" in
        run)
          options="--help${IFS}--rounds${IFS}--cohort${IFS}--validation-share${IFS}--seed${IFS}--evaluate-every${IFS}--evaluate-clients${IFS}--final-clients${IFS}--dropout${IFS}--stragglers${IFS}--split${IFS}--late${IFS}--clock${IFS}--deadline${IFS}--wait-for${IFS}--async${IFS}--compress${IFS}--target${IFS}--metric${IFS}--min-texts${IFS}--checkpoint-every${IFS}--chunk${IFS}--client-memory${IFS}--threads${IFS}--model${IFS}--head${IFS}--json${IFS}--preset${IFS}--log${IFS}--folder${IFS}--resume${IFS}--changed-file${IFS}--lr${IFS}--batch-size${IFS}--clip${IFS}--data${IFS}--sequence-length${IFS}--vocabulary-size${IFS}--oov-buckets${IFS}--max-clients${IFS}--tokenizer${IFS}--clients${IFS}--sequences${IFS}--data-seed${IFS}--client-column${IFS}--text-column${IFS}--time-column${IFS}--group-column${IFS}--label-column${IFS}--protocol${IFS}--authors${IFS}--embedding-dim${IFS}--hidden-size${IFS}--num-layers${IFS}--projection-dim${IFS}--dtype${IFS}--device${IFS}--backend${IFS}--server${IFS}--server-lr${IFS}--beta1${IFS}--beta2${IFS}--tau${IFS}--aggregator${IFS}--bucket-size${IFS}--byzantine${IFS}--clip-radius${IFS}--clip-steps${IFS}--weiszfeld-steps${IFS}--weiszfeld-smoothing${IFS}--lr-schedule${IFS}--lr-warmup${IFS}--lr-rounds${IFS}--lr-final${IFS}--lr-step-every${IFS}--lr-step-factor${IFS}--server-lr-schedule${IFS}--server-lr-warmup${IFS}--server-lr-rounds${IFS}--server-lr-final${IFS}--server-lr-step-every${IFS}--server-lr-step-factor${IFS}--dp-epsilon${IFS}--dp-delta${IFS}--dp-noise${IFS}--dp-clip${IFS}--dp-quantile${IFS}--dp-clip-lr${IFS}--dp-count-noise${IFS}--dp-mechanism"
          case "$algorithm" in
            flow) options="$options${IFS}--variant${IFS}--personal-lr${IFS}--epochs${IFS}--personal-epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--gamma${IFS}--temperature${IFS}--local-share${IFS}--ablation${IFS}--router-lr${IFS}--router-epochs${IFS}--router-every${IFS}--router-share${IFS}--gate${IFS}--local-weight${IFS}--memory${IFS}--no-memory${IFS}--memory-tokens${IFS}--adapt-epochs${IFS}--adapt-lr${IFS}--through" ;;
            local) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-epochs" ;;
            fedavg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            fedavgft) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs" ;;
            fedprox) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--mu" ;;
            ditto) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--lam" ;;
            apfl) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--alpha${IFS}--adaptive${IFS}--no-adaptive" ;;
            privategate) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--gate-lr${IFS}--new-private" ;;
            lgfedavg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--pretrain-rounds" ;;
            fedper) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--new-head" ;;
            fedrep) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--head-epochs${IFS}--personal-epochs${IFS}--personal-lr${IFS}--new-head" ;;
            fedsim) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--pretrain-rounds${IFS}--private" ;;
            fedalt) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--pretrain-rounds${IFS}--private${IFS}--private-lr${IFS}--private-epochs" ;;
            partialfed) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--strategy${IFS}--strategy-lr${IFS}--strategy-epochs${IFS}--temperature${IFS}--temperature-decay" ;;
            fedbabu) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--tuned-part" ;;
            perfedavg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--inner-lr" ;;
            fedrecon) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--recon-epochs${IFS}--recon-lr" ;;
            dynamic_routing) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--temperature${IFS}--routed-head${IFS}--no-routed-head" ;;
            ffgg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--private${IFS}--start${IFS}--personal-epochs${IFS}--shared-lr${IFS}--pairs${IFS}--asynchronous${IFS}--no-asynchronous${IFS}--delay" ;;
            fedfomo) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--models${IFS}--epsilon${IFS}--epsilon-decay${IFS}--weighing-share${IFS}--distance${IFS}--mean-candidate${IFS}--no-mean-candidate" ;;
            pfedhn) options="$options${IFS}--steps${IFS}--generated${IFS}--hyper-lr${IFS}--vector-lr${IFS}--hyper-momentum${IFS}--hyper-decay${IFS}--server-steps${IFS}--hyper-clip${IFS}--vector-size${IFS}--vector-scale${IFS}--hyper-width${IFS}--hyper-layers${IFS}--new-exchanges${IFS}--personal-epochs${IFS}--personal-lr" ;;
            pfedhnpc) options="$options${IFS}--steps${IFS}--generated${IFS}--hyper-lr${IFS}--vector-lr${IFS}--hyper-momentum${IFS}--hyper-decay${IFS}--server-steps${IFS}--hyper-clip${IFS}--vector-size${IFS}--vector-scale${IFS}--hyper-width${IFS}--hyper-layers${IFS}--new-exchanges${IFS}--personal-epochs${IFS}--personal-lr" ;;
            hypcluster) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--clusters${IFS}--random-rounds" ;;
            knnper) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--neighbours${IFS}--lam${IFS}--scale${IFS}--capacity" ;;
            ngram) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--lam${IFS}--memory-tokens" ;;
            fedyogi) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            fedadam) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            fedadagrad) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            *) options="$options${IFS}--variant${IFS}--personal-lr${IFS}--epochs${IFS}--personal-epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--gamma${IFS}--temperature${IFS}--local-share${IFS}--ablation${IFS}--router-lr${IFS}--router-epochs${IFS}--router-every${IFS}--router-share${IFS}--gate${IFS}--local-weight${IFS}--memory${IFS}--no-memory${IFS}--memory-tokens${IFS}--adapt-epochs${IFS}--adapt-lr${IFS}--through" ;;
          esac
          words="flow${IFS}local${IFS}fedavg${IFS}fedavgft${IFS}fedprox${IFS}ditto${IFS}apfl${IFS}privategate${IFS}lgfedavg${IFS}fedper${IFS}fedrep${IFS}fedsim${IFS}fedalt${IFS}partialfed${IFS}fedbabu${IFS}perfedavg${IFS}fedrecon${IFS}dynamic_routing${IFS}ffgg${IFS}fedfomo${IFS}pfedhn${IFS}pfedhnpc${IFS}hypcluster${IFS}knnper${IFS}ngram${IFS}fedyogi${IFS}fedadam${IFS}fedadagrad" kind=""
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        report)
          options="--help${IFS}--json"
          words="" kind="FOLDER"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        compare)
          options="--help${IFS}--rounds${IFS}--cohort${IFS}--validation-share${IFS}--seed${IFS}--evaluate-every${IFS}--evaluate-clients${IFS}--final-clients${IFS}--dropout${IFS}--stragglers${IFS}--split${IFS}--late${IFS}--clock${IFS}--deadline${IFS}--wait-for${IFS}--async${IFS}--compress${IFS}--target${IFS}--metric${IFS}--min-texts${IFS}--checkpoint-every${IFS}--chunk${IFS}--client-memory${IFS}--threads${IFS}--model${IFS}--head${IFS}--json${IFS}--preset${IFS}--log${IFS}--list${IFS}--seeds${IFS}--settings${IFS}--tune${IFS}--trials${IFS}--tune-rounds${IFS}--tune-by${IFS}--tuner${IFS}--against${IFS}--folder${IFS}--resume${IFS}--changed-file${IFS}--lr${IFS}--epochs${IFS}--batch-size${IFS}--clip${IFS}--data${IFS}--sequence-length${IFS}--vocabulary-size${IFS}--oov-buckets${IFS}--max-clients${IFS}--tokenizer${IFS}--clients${IFS}--sequences${IFS}--data-seed${IFS}--client-column${IFS}--text-column${IFS}--time-column${IFS}--group-column${IFS}--label-column${IFS}--protocol${IFS}--authors${IFS}--embedding-dim${IFS}--hidden-size${IFS}--num-layers${IFS}--projection-dim${IFS}--dtype${IFS}--device${IFS}--backend${IFS}--server${IFS}--server-lr${IFS}--beta1${IFS}--beta2${IFS}--tau${IFS}--aggregator${IFS}--bucket-size${IFS}--byzantine${IFS}--clip-radius${IFS}--clip-steps${IFS}--weiszfeld-steps${IFS}--weiszfeld-smoothing${IFS}--lr-schedule${IFS}--lr-warmup${IFS}--lr-rounds${IFS}--lr-final${IFS}--lr-step-every${IFS}--lr-step-factor${IFS}--server-lr-schedule${IFS}--server-lr-warmup${IFS}--server-lr-rounds${IFS}--server-lr-final${IFS}--server-lr-step-every${IFS}--server-lr-step-factor${IFS}--dp-epsilon${IFS}--dp-delta${IFS}--dp-noise${IFS}--dp-clip${IFS}--dp-quantile${IFS}--dp-clip-lr${IFS}--dp-count-noise${IFS}--dp-mechanism"
          words="flow${IFS}local${IFS}fedavg${IFS}fedavgft${IFS}fedprox${IFS}ditto${IFS}apfl${IFS}privategate${IFS}lgfedavg${IFS}fedper${IFS}fedrep${IFS}fedsim${IFS}fedalt${IFS}partialfed${IFS}fedbabu${IFS}perfedavg${IFS}fedrecon${IFS}dynamic_routing${IFS}ffgg${IFS}fedfomo${IFS}pfedhn${IFS}pfedhnpc${IFS}hypcluster${IFS}knnper${IFS}ngram${IFS}fedyogi${IFS}fedadam${IFS}fedadagrad" kind=""
          ;;
        prepare)
          options="--help${IFS}--data${IFS}--sequence-length${IFS}--vocabulary-size${IFS}--oov-buckets${IFS}--max-clients${IFS}--tokenizer${IFS}--clients${IFS}--sequences${IFS}--data-seed${IFS}--client-column${IFS}--text-column${IFS}--time-column${IFS}--group-column${IFS}--label-column${IFS}--protocol${IFS}--authors${IFS}--json"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        data)
          options="--help${IFS}--data${IFS}--sequence-length${IFS}--vocabulary-size${IFS}--oov-buckets${IFS}--max-clients${IFS}--tokenizer${IFS}--clients${IFS}--sequences${IFS}--data-seed${IFS}--client-column${IFS}--text-column${IFS}--time-column${IFS}--group-column${IFS}--label-column${IFS}--protocol${IFS}--authors${IFS}--json${IFS}--sample${IFS}--folder"
          words="shakespeare${IFS}synthetic" kind="FILE"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        adapt)
          options="--help${IFS}--model${IFS}--head${IFS}--json${IFS}--out${IFS}--texts${IFS}--client${IFS}--client-column${IFS}--text-column${IFS}--time-column${IFS}--label-column${IFS}--data${IFS}--metric${IFS}--changed-file"
          words="" kind="FOLDER"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        predict)
          options="--help${IFS}--model${IFS}--head${IFS}--algorithm${IFS}--json${IFS}--top${IFS}--complete${IFS}--score${IFS}--client${IFS}--client-column${IFS}--text-column${IFS}--time-column${IFS}--label-column"
          words="" kind="FOLDER"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        export)
          options="--help${IFS}--model${IFS}--head${IFS}--algorithm${IFS}--json${IFS}--out${IFS}--format"
          words="" kind="FOLDER"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        serve)
          options="--help${IFS}--model${IFS}--head${IFS}--algorithm${IFS}--port"
          words="" kind="FOLDER"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        watch)
          options="--help${IFS}--port${IFS}--open"
          words="" kind="FOLDER"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        deploy)
          options="--help${IFS}--rounds${IFS}--cohort${IFS}--validation-share${IFS}--seed${IFS}--evaluate-every${IFS}--evaluate-clients${IFS}--final-clients${IFS}--dropout${IFS}--stragglers${IFS}--split${IFS}--late${IFS}--clock${IFS}--deadline${IFS}--wait-for${IFS}--async${IFS}--compress${IFS}--target${IFS}--metric${IFS}--min-texts${IFS}--checkpoint-every${IFS}--chunk${IFS}--client-memory${IFS}--threads${IFS}--model${IFS}--head${IFS}--json${IFS}--preset${IFS}--app${IFS}--lr${IFS}--batch-size${IFS}--clip${IFS}--data${IFS}--sequence-length${IFS}--vocabulary-size${IFS}--oov-buckets${IFS}--max-clients${IFS}--tokenizer${IFS}--clients${IFS}--sequences${IFS}--data-seed${IFS}--client-column${IFS}--text-column${IFS}--time-column${IFS}--group-column${IFS}--label-column${IFS}--protocol${IFS}--authors${IFS}--embedding-dim${IFS}--hidden-size${IFS}--num-layers${IFS}--projection-dim${IFS}--dtype${IFS}--device${IFS}--backend${IFS}--server${IFS}--server-lr${IFS}--beta1${IFS}--beta2${IFS}--tau${IFS}--aggregator${IFS}--bucket-size${IFS}--byzantine${IFS}--clip-radius${IFS}--clip-steps${IFS}--weiszfeld-steps${IFS}--weiszfeld-smoothing${IFS}--lr-schedule${IFS}--lr-warmup${IFS}--lr-rounds${IFS}--lr-final${IFS}--lr-step-every${IFS}--lr-step-factor${IFS}--server-lr-schedule${IFS}--server-lr-warmup${IFS}--server-lr-rounds${IFS}--server-lr-final${IFS}--server-lr-step-every${IFS}--server-lr-step-factor${IFS}--dp-epsilon${IFS}--dp-delta${IFS}--dp-noise${IFS}--dp-clip${IFS}--dp-quantile${IFS}--dp-clip-lr${IFS}--dp-count-noise${IFS}--dp-mechanism${IFS}--folder${IFS}--nodes${IFS}--wait${IFS}--timeout${IFS}--secagg${IFS}--no-secagg${IFS}--secagg-clip"
          case "$algorithm" in
            flow) options="$options${IFS}--variant${IFS}--personal-lr${IFS}--epochs${IFS}--personal-epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--gamma${IFS}--temperature${IFS}--local-share${IFS}--ablation${IFS}--router-lr${IFS}--router-epochs${IFS}--router-every${IFS}--router-share${IFS}--gate${IFS}--local-weight${IFS}--memory${IFS}--no-memory${IFS}--memory-tokens${IFS}--adapt-epochs${IFS}--adapt-lr${IFS}--through" ;;
            local) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-epochs" ;;
            fedavg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            fedavgft) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs" ;;
            fedprox) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--mu" ;;
            ditto) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--lam" ;;
            apfl) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--alpha${IFS}--adaptive${IFS}--no-adaptive" ;;
            privategate) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--gate-lr${IFS}--new-private" ;;
            lgfedavg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--pretrain-rounds" ;;
            fedper) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--new-head" ;;
            fedrep) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--head-epochs${IFS}--personal-epochs${IFS}--personal-lr${IFS}--new-head" ;;
            fedsim) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--pretrain-rounds${IFS}--private" ;;
            fedalt) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--pretrain-rounds${IFS}--private${IFS}--private-lr${IFS}--private-epochs" ;;
            partialfed) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--strategy${IFS}--strategy-lr${IFS}--strategy-epochs${IFS}--temperature${IFS}--temperature-decay" ;;
            fedbabu) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--tuned-part" ;;
            perfedavg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--inner-lr" ;;
            fedrecon) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--recon-epochs${IFS}--recon-lr" ;;
            dynamic_routing) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--temperature${IFS}--routed-head${IFS}--no-routed-head" ;;
            ffgg) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--private${IFS}--start${IFS}--personal-epochs${IFS}--shared-lr${IFS}--pairs${IFS}--asynchronous${IFS}--no-asynchronous${IFS}--delay" ;;
            fedfomo) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--models${IFS}--epsilon${IFS}--epsilon-decay${IFS}--weighing-share${IFS}--distance${IFS}--mean-candidate${IFS}--no-mean-candidate" ;;
            pfedhn) options="$options${IFS}--steps${IFS}--generated${IFS}--hyper-lr${IFS}--vector-lr${IFS}--hyper-momentum${IFS}--hyper-decay${IFS}--server-steps${IFS}--hyper-clip${IFS}--vector-size${IFS}--vector-scale${IFS}--hyper-width${IFS}--hyper-layers${IFS}--new-exchanges${IFS}--personal-epochs${IFS}--personal-lr" ;;
            pfedhnpc) options="$options${IFS}--steps${IFS}--generated${IFS}--hyper-lr${IFS}--vector-lr${IFS}--hyper-momentum${IFS}--hyper-decay${IFS}--server-steps${IFS}--hyper-clip${IFS}--vector-size${IFS}--vector-scale${IFS}--hyper-width${IFS}--hyper-layers${IFS}--new-exchanges${IFS}--personal-epochs${IFS}--personal-lr" ;;
            hypcluster) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--personal-lr${IFS}--personal-epochs${IFS}--clusters${IFS}--random-rounds" ;;
            knnper) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--neighbours${IFS}--lam${IFS}--scale${IFS}--capacity" ;;
            ngram) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--lam${IFS}--memory-tokens" ;;
            fedyogi) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            fedadam) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            fedadagrad) options="$options${IFS}--epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon" ;;
            *) options="$options${IFS}--variant${IFS}--personal-lr${IFS}--epochs${IFS}--personal-epochs${IFS}--momentum${IFS}--weight-decay${IFS}--client-optimizer${IFS}--client-beta1${IFS}--client-beta2${IFS}--client-epsilon${IFS}--gamma${IFS}--temperature${IFS}--local-share${IFS}--ablation${IFS}--router-lr${IFS}--router-epochs${IFS}--router-every${IFS}--router-share${IFS}--gate${IFS}--local-weight${IFS}--memory${IFS}--no-memory${IFS}--memory-tokens${IFS}--adapt-epochs${IFS}--adapt-lr${IFS}--through" ;;
          esac
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        doctor)
          options="--help${IFS}--json${IFS}--benchmark${IFS}--no-benchmark"
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
        completion)
          options="--help"
          words="bash${IFS}zsh${IFS}fish" kind=""
          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""
          ;;
      esac
      [ -n "$words$kind" ] || words="$options"
      case "$current" in
        -*) words="$options" kind="" ;;
      esac
      ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "$kind" in
    FILE)
      compopt -o filenames 2>/dev/null
      COMPREPLY+=($(compgen -f -- "$current"))
      ;;
    FOLDER)
      compopt -o filenames 2>/dev/null
      COMPREPLY+=($(compgen -d -- "$current"))
      ;;
  esac
}
complete -F _flow flow
