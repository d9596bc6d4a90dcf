mkdir -p /runs/id
cat > /runs/id/recipe.yaml.pasted <<'END_OF_FILE'
name: imagenet
task:
  entry: PROJECT/recipes/imagenet/task.py:ImageNet
  args: {data: data}
data: {samples: 1281167, workers: 8}
model: {parameters: 25557032}
batch:
  global: 8192
  micro: 32
  accumulation: null
  on_out_of_memory: null
  tail: keep
  schedule: []
multitask:
  losses: {}
  backward: joint
train: {epochs: 90, updates: null, samples: null, precision: fp32, accumulate_dtype: null,
  tf32: false, compile: false, max_grad_norm: null, seed: 0, determinism: same-world,
  virtual_ranks: null}
optimizer:
  name: sgd
  lr: 0.1
  weight_decay: 0.0001
  betas: [0.9, 0.999]
  eps: 1.0e-08
  momentum: 0.9
  nesterov: true
schedule:
  name: step
  warmup: 5
  final: 0.0
  at: [30, 60, 80]
  factor: 0.1
  unit: epochs
lr_scaling: {rule: linear, reference_batch: 256}
eval: {every: epoch}
guard: {every: 100, heartbeat: 30.0, stall: 1800.0, non_finite: stop}
noise_scale: {every: 10, measured: null}
parallel:
  engine: ddp
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
  method: torchrun
  nodes: 1
  nproc_per_node: auto
  grace: 60.0
  restarts: 3
  device: auto
  accelerate: {config_file: null}
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
    project: imagenet
    entity: null
    group: null
    tags: []
    mode: auto
END_OF_FILE
cat > /runs/id/plan.json.pasted <<'END_OF_FILE'
{
  "recipe": {
    "name": "imagenet",
    "task": {
      "entry": "PROJECT/recipes/imagenet/task.py:ImageNet",
      "args": {
        "data": "data"
      }
    },
    "script": null,
    "data": {
      "samples": 1281167,
      "workers": 8
    },
    "model": {
      "parameters": 25557032
    },
    "batch": {
      "global": 8192,
      "micro": 32,
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
      "epochs": 90,
      "updates": null,
      "samples": null,
      "precision": "fp32",
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
      "lr": 0.1,
      "weight_decay": 0.0001,
      "betas": [
        0.9,
        0.999
      ],
      "eps": 1e-8,
      "momentum": 0.9,
      "nesterov": true
    },
    "schedule": {
      "name": "step",
      "warmup": 5,
      "final": 0.0,
      "at": [
        30,
        60,
        80
      ],
      "factor": 0.1,
      "unit": "epochs"
    },
    "lr_scaling": {
      "rule": "linear",
      "reference_batch": 256
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
      "engine": "ddp",
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
      "method": "torchrun",
      "nodes": 1,
      "nproc_per_node": "auto",
      "grace": 60.0,
      "restarts": 3,
      "device": "auto",
      "accelerate": {
        "config_file": null
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
        "project": "imagenet",
        "entity": null,
        "group": null,
        "tags": [],
        "mode": "auto"
      }
    }
  },
  "topology": {
    "nodes": 1,
    "nproc_per_node": 2,
    "device": "cpu"
  },
  "batch": {
    "global": 8192,
    "micro": 32,
    "accumulation": 128,
    "world_size": 2,
    "micro_steps": [
      128,
      128
    ],
    "follows_world": false
  },
  "stages": [
    {
      "global": 8192,
      "micro_steps": [
        128,
        128
      ],
      "first_update": 0,
      "updates": 14130,
      "learning_rate_scale": 32.0
    }
  ],
  "length": {
    "data_samples": 1281167,
    "updates_per_epoch": 157,
    "tail_samples": 3215,
    "updates": 14130
  },
  "learning_rate": {
    "base": 0.1,
    "scale": 32.0,
    "shape": "step",
    "warmup_updates": 785,
    "updates": 14130,
    "final": 0.0,
    "stages": [],
    "drops": [
      4710,
      9420,
      12560
    ],
    "drop_factor": 0.1
  },
  "reduction": {
    "parameters": 25557032,
    "bytes_per_update": 102228128,
    "bytes_without_no_sync": 13085200384,
    "gathered_bytes": 0
  },
  "warnings": [
    "BatchNorm (task.py:75 BatchNorm2d, task.py:75 SyncBatchNorm, task.py:86 BatchNorm2d) takes its statistics from one micro-batch, not from the global batch, so accumulation does not equal one big batch; use GroupNorm or LayerNorm, or parallel.sync_batchnorm=true on GPUs."
  ],
  "found": [],
  "past": []
}
END_OF_FILE
ACCELERATE_GRADIENT_ACCUMULATION_STEPS=128 \
  ACCELERATE_MIXED_PRECISION=no \
  ACCELERATE_USE_CPU=true \
  CUDA_VISIBLE_DEVICES='' \
  LAUNCHER_ACCUMULATION=128 \
  LAUNCHER_GLOBAL_BATCH=8192 \
  LAUNCHER_LEARNING_RATE=3.2 \
  LAUNCHER_MICRO_BATCH=32 \
  LAUNCHER_RUN_DIR=/runs/id \
  LAUNCHER_SEED=0 \
  LAUNCHER_UPDATES=14130 \
  MALLOC_MMAP_THRESHOLD_=33554432 \
  MALLOC_TRIM_THRESHOLD_=1073741824 \
  OMP_NUM_THREADS=4 \
  PYTHONUNBUFFERED=1 \
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
  TORCH_ELASTIC_SHUTDOWN_TIMEOUT=60 \
  WANDB_ERROR_REPORTING=false \
  python -m launcher.worker.agent torchrun --standalone --nproc-per-node=2 --max-restarts=0 --log-dir=/runs/id/logs/agent -m launcher.worker.entry
