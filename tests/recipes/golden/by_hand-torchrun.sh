mkdir -p /runs/id
cat > /runs/id/recipe.yaml.pasted <<'END_OF_FILE'
name: digits
task:
  entry: PROJECT/recipes/digits/task.py:Digits
  args: {hidden: 64}
data: {samples: 1437, workers: 0}
model: {parameters: 38282}
batch:
  global: 256
  micro: 32
  accumulation: null
  on_out_of_memory: null
  tail: keep
  schedule: []
multitask:
  losses: {}
  backward: joint
train: {epochs: 20, updates: null, samples: null, precision: fp32, accumulate_dtype: null,
  tf32: false, compile: false, max_grad_norm: 1.0, seed: 0, determinism: same-world,
  virtual_ranks: null}
optimizer:
  name: adamw
  lr: 0.01
  weight_decay: 0.01
  betas: [0.9, 0.999]
  eps: 1.0e-08
  momentum: 0.0
  nesterov: false
schedule:
  name: cosine
  warmup: 0.1
  final: 0.0
  at: []
  factor: 0.1
  unit: updates
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
    project: digits
    entity: null
    group: null
    tags: []
    mode: auto
END_OF_FILE
cat > /runs/id/plan.json.pasted <<'END_OF_FILE'
{
  "recipe": {
    "name": "digits",
    "task": {
      "entry": "PROJECT/recipes/digits/task.py:Digits",
      "args": {
        "hidden": 64
      }
    },
    "script": null,
    "data": {
      "samples": 1437,
      "workers": 0
    },
    "model": {
      "parameters": 38282
    },
    "batch": {
      "global": 256,
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
      "epochs": 20,
      "updates": null,
      "samples": null,
      "precision": "fp32",
      "accumulate_dtype": null,
      "tf32": false,
      "compile": false,
      "max_grad_norm": 1.0,
      "seed": 0,
      "determinism": "same-world",
      "virtual_ranks": null
    },
    "optimizer": {
      "name": "adamw",
      "lr": 0.01,
      "weight_decay": 0.01,
      "betas": [
        0.9,
        0.999
      ],
      "eps": 1e-8,
      "momentum": 0.0,
      "nesterov": false
    },
    "schedule": {
      "name": "cosine",
      "warmup": 0.1,
      "final": 0.0,
      "at": [],
      "factor": 0.1,
      "unit": "updates"
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
        "project": "digits",
        "entity": null,
        "group": null,
        "tags": [],
        "mode": "auto"
      }
    }
  },
  "topology": {
    "nodes": 2,
    "nproc_per_node": 2,
    "device": "cpu"
  },
  "batch": {
    "global": 256,
    "micro": 32,
    "accumulation": 2,
    "world_size": 4,
    "micro_steps": [
      2,
      2,
      2,
      2
    ],
    "follows_world": false
  },
  "stages": [
    {
      "global": 256,
      "micro_steps": [
        2,
        2,
        2,
        2
      ],
      "first_update": 0,
      "updates": 120,
      "learning_rate_scale": 1.0
    }
  ],
  "length": {
    "data_samples": 1437,
    "updates_per_epoch": 6,
    "tail_samples": 157,
    "updates": 120
  },
  "learning_rate": {
    "base": 0.01,
    "scale": 1.0,
    "shape": "cosine",
    "warmup_updates": 12,
    "updates": 120,
    "final": 0.0,
    "stages": [],
    "drops": [],
    "drop_factor": 0.1
  },
  "reduction": {
    "parameters": 38282,
    "bytes_per_update": 153128,
    "bytes_without_no_sync": 306256,
    "gathered_bytes": 0
  },
  "warnings": [],
  "found": [],
  "past": []
}
END_OF_FILE
ACCELERATE_GRADIENT_ACCUMULATION_STEPS=2 \
  ACCELERATE_MIXED_PRECISION=no \
  ACCELERATE_USE_CPU=true \
  CUDA_VISIBLE_DEVICES='' \
  GLOO_SOCKET_IFNAME=eth0 \
  LAUNCHER_ACCUMULATION=2 \
  LAUNCHER_GLOBAL_BATCH=256 \
  LAUNCHER_LEARNING_RATE=0.01 \
  LAUNCHER_MICRO_BATCH=32 \
  LAUNCHER_RUN_DIR=/runs/id \
  LAUNCHER_SEED=0 \
  LAUNCHER_UPDATES=120 \
  MALLOC_MMAP_THRESHOLD_=33554432 \
  MALLOC_TRIM_THRESHOLD_=1073741824 \
  OMP_NUM_THREADS=4 \
  PYTHONUNBUFFERED=1 \
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
  TORCH_ELASTIC_SHUTDOWN_TIMEOUT=60 \
  WANDB_ERROR_REPORTING=false \
  python -m launcher.worker.agent torchrun --nnodes=2 --node-rank=1 --master-addr=127.0.0.1 --master-port=29400 --rdzv-id=id.127.0.0.1:29400.1 --rdzv-conf=timeout=300 --nproc-per-node=2 --max-restarts=0 --log-dir=/runs/id/logs/agent -m launcher.worker.entry
