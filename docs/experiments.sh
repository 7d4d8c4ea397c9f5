#!/bin/bash
# Makes the runs that the tables of docs/experiments.md show: bash docs/experiments.sh
# Start it again at any time: it skips finished runs and resumes interrupted ones.
set -e
hyenadna=${HYENADNA:-hyenadna}                                   # the command, such as "taskset -c 0 hyenadna"
checkpoint=${CHECKPOINT:-$(python -c 'import hyenadna; print(hyenadna.example_checkpoint())')}
data=${DATA:-data}                                               # its content: docs/experiments.md
out=${OUT:-runs}
common="--resume --disable_tqdm True ${FLAGS:-}"

# chosen on validation rows (demo.py); the checkpoint keeps its shape
splice="--pooling last --learning_rate 8e-4 --warmup_steps 0.1 --per_device_train_batch_size 32 --num_train_epochs 16 --metric_for_best_model loss"
splice_scratch="--d_model 64 --n_layer 4 --max_seq_len 64 --initializer_range 0.08 --embed_dropout 0.2 --resid_dropout 0.1"
scratch="--learning_rate 1e-3 --initializer_range 0.06"
small="--per_device_train_batch_size 32 --embed_dropout 0.1"
prom="--data $data/prom_300_tata $small"
tf0="--data $data/tf_0_8000 $small --num_train_epochs 5 --reverse_complement 0.5 --test_time_averaging"
chr20="--data $data/genomic_benchmarks_chr20 $small --num_train_epochs 3 --reverse_complement 0.5 --test_time_averaging"
bacteria="--data $data/bacteria --learning_rate 1e-3 --initializer_range 0.06 --embed_dropout 0 --num_train_epochs 4 --test_windows 120"

run() { # the command, and the folder in $out; a report of the finished runs can be made at any time
    $hyenadna "$1" $common "${@:3}" --output_dir "$out/$2"
}
seeds() { # all tasks, with one seed and then with three
    run benchmark splice-scratch $splice $splice_scratch --seeds "$@"
    run benchmark splice-pretrained $splice --embed_dropout 0.1 --model "$checkpoint" --seeds "$@"
    run benchmark prom-pretrained $prom --num_train_epochs 4 --model "$checkpoint" --seeds "$@"
    run benchmark prom-scratch $prom --num_train_epochs 6 $scratch --seeds "$@"
}
embeddings="--data $data/transcripts.csv --max_rows 500 --chunk 1024 --classifier boosted_trees --picture tsne"
if [ ! -f "$out/embed-transcripts/metrics.json" ]; then
    $hyenadna embed --resume ${FLAGS:-} --model "$checkpoint" $embeddings --output_dir "$out/embed-transcripts"
fi
run benchmark tf0-pretrained $tf0 --model "$checkpoint"
run benchmark chr20-pretrained $chr20 --model "$checkpoint"
seeds 0
run species species-1k $bacteria --window 1024 --windows_per_epoch 1200 --per_device_train_batch_size 16 --per_device_eval_batch_size 16
run benchmark tf0-scratch $tf0 $scratch --num_train_epochs 12 # after five its validation loss was still falling
run species species-16k $bacteria --window 16384 --windows_per_epoch 120 --per_device_train_batch_size 2 --per_device_eval_batch_size 2
seeds 0 1 2
run benchmark chr20-scratch $chr20 $scratch
$hyenadna report "$out" --output_dir "${REPORT:-docs}"
