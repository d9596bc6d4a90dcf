mkdir -p /runs/id
cat > /runs/id/recipe.yaml.pasted <<'END_OF_FILE'
name: own_config
task:
  entry: PROJECT/tests/tasks/tiny.py:Tiny
  args: {}
data: {samples: null, workers: 0}
model: {parameters: null}
batch:
  global: 16
  micro: 4
  accumulation: null
  on_out_of_memory: null
  tail: keep
  schedule: []
multitask:
  losses: {}
  backward: joint
train: {epochs: null, updates: 5, samples: null, precision: bf16, accumulate_dtype: null,
  tf32: false, compile: false, max_grad_norm: null, seed: 0, determinism: same-world,
  virtual_ranks: null}
optimizer:
  name: sgd
  lr: 0.05
  weight_decay: 0.0
  betas: [0.9, 0.999]
  eps: 1.0e-08
  momentum: 0.0
  nesterov: false
schedule:
  name: constant
  warmup: 0
  final: 0.0
  at: []
  factor: 0.1
  unit: updates
lr_scaling: {rule: none, reference_batch: null}
eval: {every: epoch}
guard: {every: 100, heartbeat: 30.0, stall: 1800.0, non_finite: stop}
noise_scale: {every: 10, measured: null}
parallel:
  engine: accelerate
  deepspeed:
    stage: 1
    offload_optimizer: false
    offload_parameters: false
    config: {}
  fsdp:
    wrap: []
    defer_reduction: true
    reshard_after_forward: true
    checkpoint_activations: false
    replicas: none
  bucket_mb: 25.0
  find_unused_parameters: false
  sync_batchnorm: false
  timeout: 600.0
launch:
  method: accelerate
  nodes: 1
  nproc_per_node: 2
  grace: 60.0
  restarts: 3
  device: cpu
  accelerate: {config_file: PROJECT/tests/tasks/own_config.yml}
  slurm:
    partition: null
    account: null
    time: null
    memory: null
    gpus_per_node: null
    cpus_per_node: null
    signal_before: null
    container: null
    mounts: []
    options: {}
  ray: {address: null, python: python3, cpus_per_rank: null}
  docker:
    image: null
    shm_size: 8g
    network: null
    mounts: []
    env: []
    stop_timeout: null
    options: {}
  skypilot:
    accelerator: null
    infra: null
    use_spot: false
    image: null
    setup: null
    runs: null
    memory: null
    disk: null
    secrets: []
  kubernetes:
    kind: job
    image: null
    code: null
    runs_claim: null
    runs_path: /runs
    volumes: []
    namespace: null
    gpus_per_node: null
    cpus_per_node: null
    memory: null
    gpu_resource: nvidia.com/gpu
    resources: {}
    shared_memory: 8Gi
    grace_period: null
    node_selector: {}
    tolerations: []
    env: {}
    secrets: {}
    user: 1000
    service_account: null
    pull_secrets: []
    labels: {}
    runtime: torch-distributed
checkpoint: {every: null, minutes: 15.0, keep: 3, background: false}
tracking:
  wandb:
    project: null
    entity: null
    group: null
    tags: []
    mode: disabled
END_OF_FILE
cat > /runs/id/plan.json.pasted <<'END_OF_FILE'
{
  "recipe": {
    "name": "own_config",
    "task": {
      "entry": "PROJECT/tests/tasks/tiny.py:Tiny",
      "args": {}
    },
    "script": null,
    "data": {
      "samples": null,
      "workers": 0
    },
    "model": {
      "parameters": null
    },
    "batch": {
      "global": 16,
      "micro": 4,
      "accumulation": null,
      "on_out_of_memory": null,
      "tail": "keep",
      "schedule": []
    },
    "multitask": {
      "losses": {},
      "backward": "joint"
    },
    "train": {
      "epochs": null,
      "updates": 5,
      "samples": null,
      "precision": "bf16",
      "accumulate_dtype": null,
      "tf32": false,
      "compile": false,
      "max_grad_norm": null,
      "seed": 0,
      "determinism": "same-world",
      "virtual_ranks": null
    },
    "optimizer": {
      "name": "sgd",
      "lr": 0.05,
      "weight_decay": 0.0,
      "betas": [
        0.9,
        0.999
      ],
      "eps": 1e-8,
      "momentum": 0.0,
      "nesterov": false
    },
    "schedule": {
      "name": "constant",
      "warmup": 0,
      "final": 0.0,
      "at": [],
      "factor": 0.1,
      "unit": "updates"
    },
    "lr_scaling": {
      "rule": "none",
      "reference_batch": null
    },
    "eval": {
      "every": "epoch"
    },
    "guard": {
      "every": 100,
      "heartbeat": 30.0,
      "stall": 1800.0,
      "non_finite": "stop"
    },
    "noise_scale": {
      "every": 10,
      "measured": null
    },
    "parallel": {
      "engine": "accelerate",
      "deepspeed": {
        "stage": 1,
        "offload_optimizer": false,
        "offload_parameters": false,
        "config": {}
      },
      "fsdp": {
        "wrap": [],
        "defer_reduction": true,
        "reshard_after_forward": true,
        "checkpoint_activations": false,
        "replicas": "none"
      },
      "bucket_mb": 25.0,
      "find_unused_parameters": false,
      "sync_batchnorm": false,
      "timeout": 600.0
    },
    "launch": {
      "method": "accelerate",
      "nodes": 1,
      "nproc_per_node": 2,
      "grace": 60.0,
      "restarts": 3,
      "device": "cpu",
      "accelerate": {
        "config_file": "PROJECT/tests/tasks/own_config.yml"
      },
      "slurm": {
        "partition": null,
        "account": null,
        "time": null,
        "memory": null,
        "gpus_per_node": null,
        "cpus_per_node": null,
        "signal_before": null,
        "container": null,
        "mounts": [],
        "options": {}
      },
      "ray": {
        "address": null,
        "python": "python3",
        "cpus_per_rank": null
      },
      "docker": {
        "image": null,
        "shm_size": "8g",
        "network": null,
        "mounts": [],
        "env": [],
        "stop_timeout": null,
        "options": {}
      },
      "skypilot": {
        "accelerator": null,
        "infra": null,
        "use_spot": false,
        "image": null,
        "setup": null,
        "runs": null,
        "memory": null,
        "disk": null,
        "secrets": []
      },
      "kubernetes": {
        "kind": "job",
        "image": null,
        "code": null,
        "runs_claim": null,
        "runs_path": "/runs",
        "volumes": [],
        "namespace": null,
        "gpus_per_node": null,
        "cpus_per_node": null,
        "memory": null,
        "gpu_resource": "nvidia.com/gpu",
        "resources": {},
        "shared_memory": "8Gi",
        "grace_period": null,
        "node_selector": {},
        "tolerations": [],
        "env": {},
        "secrets": {},
        "user": 1000,
        "service_account": null,
        "pull_secrets": [],
        "labels": {},
        "runtime": "torch-distributed"
      }
    },
    "checkpoint": {
      "every": null,
      "minutes": 15.0,
      "keep": 3,
      "background": false
    },
    "tracking": {
      "wandb": {
        "project": null,
        "entity": null,
        "group": null,
        "tags": [],
        "mode": "disabled"
      }
    }
  },
  "topology": {
    "nodes": 1,
    "nproc_per_node": 2,
    "device": "cpu"
  },
  "batch": {
    "global": 16,
    "micro": 4,
    "accumulation": 2,
    "world_size": 2,
    "micro_steps": [
      2,
      2
    ],
    "follows_world": false
  },
  "stages": [
    {
      "global": 16,
      "micro_steps": [
        2,
        2
      ],
      "first_update": 0,
      "updates": 5,
      "learning_rate_scale": 1.0
    }
  ],
  "length": {
    "data_samples": null,
    "updates_per_epoch": null,
    "tail_samples": null,
    "updates": 5
  },
  "learning_rate": {
    "base": 0.05,
    "scale": 1.0,
    "shape": "constant",
    "warmup_updates": 0,
    "updates": 5,
    "final": 0.0,
    "stages": [],
    "drops": [],
    "drop_factor": 0.1
  },
  "reduction": null,
  "warnings": [],
  "found": [],
  "past": []
}
END_OF_FILE
cat > /runs/id/accelerate.yaml.pasted <<'END_OF_FILE'
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: MULTI_GPU
downcast_bf16: 'no'
enable_cpu_affinity: true
gpu_ids: all
machine_rank: 0
main_process_port: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 2
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
END_OF_FILE
ACCELERATE_GRADIENT_ACCUMULATION_STEPS=2 \
  ACCELERATE_MIXED_PRECISION=bf16 \
  ACCELERATE_USE_CPU=true \
  CUDA_VISIBLE_DEVICES='' \
  LAUNCHER_ACCUMULATION=2 \
  LAUNCHER_GLOBAL_BATCH=16 \
  LAUNCHER_LEARNING_RATE=0.05 \
  LAUNCHER_MICRO_BATCH=4 \
  LAUNCHER_RUN_DIR=/runs/id \
  LAUNCHER_SEED=0 \
  LAUNCHER_UPDATES=5 \
  MALLOC_MMAP_THRESHOLD_=33554432 \
  MALLOC_TRIM_THRESHOLD_=1073741824 \
  OMP_NUM_THREADS=4 \
  PYTHONUNBUFFERED=1 \
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
  TORCH_ELASTIC_SHUTDOWN_TIMEOUT=60 \
  WANDB_ERROR_REPORTING=false \
  python -m launcher.worker.agent accelerate launch --config_file /runs/id/accelerate.yaml --log_dir /runs/id/logs/agent -m launcher.worker.entry
