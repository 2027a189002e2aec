#!/usr/bin/env bash
# Pretraining as one Slurm job, Ray included: one task of Ray on every node, the driver on the first.
#   sbatch cluster/slurm.sh --config cluster/pretrain.yaml run.name=first run.storage_path=/shared/runs
# Everything behind the script's name goes to jobs/pretrain.py. When the time is nearly up, the run saves a checkpoint, the
# job puts itself back into the queue, and goes on from there. So it does when it is preempted, if your Slurm sends the
# signal then (SlurmctldParameters=preempt_send_user_signal, with a grace time); otherwise Slurm requeues it without a word,
# and the steps since the last checkpoint are done again. By hand:
#   scancel --batch --signal=TERM JOB    save, back into the queue
#   scancel --batch --signal=USR1 JOB    save, end
#   scancel JOB                          end at once
#SBATCH --job-name=discovr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
# 4 CPUs for the workers, 12 for decoding; the rest is torch's and Ray's own
#SBATCH --cpus-per-task=24
# paper_vit_base: 4 workers x 3.2 GiB for saves, 30 % for Ray's object store (below), the rest for the file cache
#SBATCH --mem=128G
#SBATCH --time=24:00:00
# TERM to this script 5 minutes before the end: time for a step and a checkpoint
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=discovr-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"

# NVIDIA's driver: 580 or newer
source "${DISCOVR_ENV:-.venv}/bin/activate"   # on a file system that all nodes see; pip install -r cluster/requirements.txt
cpus_for_ray=$((SLURM_CPUS_PER_TASK * 2 / 3)) # of each node's cpus-per-task
port=$((20000 + SLURM_JOB_ID % 4000 * 3))     # and the two behind it; another job's Ray may run on the same node

# a token of this job alone, which nobody else can read; nodes get it through the shared folder, not through arguments
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH"
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_TRAIN_ENABLE_STATE_TRACKING=1
pids=()
driver=
stop= # what comes after the driver's last checkpoint: requeue or end
ask() {
    [ -z "$stop" ] || return 0 # a second signal would have the driver end without saving
    stop=$1
    [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap 'ask requeue' TERM
trap 'ask end' USR1
finish() {
    kill "${pids[@]}" 2>/dev/null || true
    wait || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# some systems give a node's own name to loopback, which no other node reaches
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" sh -c \
    'case $(hostname --ip-address) in 127.* | ::1*) hostname --all-ip-addresses ;; *) hostname --ip-address ;; esac' |
    awk '{print $1}')
# Ray would take 30 % of the machine's memory, of which this job has only a part
store=()
[ "${SLURM_MEM_PER_NODE:-0}" = 0 ] || store=(--object-store-memory=$((SLURM_MEM_PER_NODE * 1048576 * 3 / 10)))

start() { # NODE ARGUMENTS...
    local node=$1
    shift
    # srun of Slurm 22.05 and later does not take cpus-per-task from sbatch
    srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=none --overlap -w "$node" \
        ray start --block --num-cpus="$cpus_for_ray" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" "${store[@]}" \
        --temp-dir="$RAY_TMPDIR" --disable-usage-stats "$@" &
    pids+=($!)
}
all_live() {
    local pid
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}
export RAY_ADDRESS="$head:$port" # for the nodes' own processes, too: other Rays may run on the machines
start "${nodes[0]}" --head --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1 \
    --dashboard-port=$((port + 1)) --ray-client-server-port=$((port + 2))
for node in "${nodes[@]:1}"; do start "$node" --address="$head:$port"; done

wanted=${#nodes[@]}
for _ in $(seq 100); do # workers may come before the head listens; Ray tries again by itself
    alive=$(python -c 'import ray; ray.init(logging_level="ERROR"); print(sum(n["Alive"] for n in ray.nodes()))' 2>/dev/null || echo 0)
    if [ "$alive" -ge "$wanted" ] || [ -n "$stop" ]; then break; fi
    all_live || break # the reason is above
    sleep 2
done
if [ "$alive" -lt "$wanted" ] && [ -z "$stop" ]; then
    echo "slurm.sh: only $alive of $wanted Ray nodes came up" >&2
    exit 1
fi

code=0
if [ -z "$stop" ]; then
    # labels of the cluster files are not set here: decoding shares the GPU nodes, with the CPUs that training leaves
    python jobs/pretrain.py "$@" \
        'run.worker_node_labels={}' 'data.decode_node_labels={}' run.autoscaling=false run.resume=true &
    driver=$!
    while :; do
        code=0
        wait "$driver" || code=$?
        kill -0 "$driver" 2>/dev/null || break # otherwise a signal has ended the waiting, not the driver
    done
fi
# 143: stopped by the signal, checkpoint and all. Whatever else it says is for people, and no reason to try again
if [ "$stop" = requeue ] && { [ -z "$driver" ] || [ "$code" = 143 ]; }; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
