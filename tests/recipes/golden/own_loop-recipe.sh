mkdir -p /runs/id
cat > /runs/id/recipe.yaml.pasted <<'END_OF_FILE'
name: own_loop
script:
  path: PROJECT/recipes/own_loop/train.py
  args: []
data: {samples: 1437, workers: 0}
model: {parameters: 17258}
batch:
  global: 250
  micro: 32
  accumulation: null
  on_out_of_memory: null
  tail: keep
  schedule: []
multitask:
  losses: {}
  backward: joint
train: {epochs: 15, updates: null, samples: null, precision: fp32, accumulate_dtype: null,
  tf32: false, compile: false, max_grad_norm: null, seed: 0, determinism: same-world,
  virtual_ranks: null}
optimizer:
  name: adamw
  lr: 0.01
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
    project: null
    entity: null
    group: null
    tags: []
    mode: auto
END_OF_FILE
cat > /runs/id/plan.json.pasted <<'END_OF_FILE'
{
  "recipe": {
    "name": "own_loop",
    "task": null,
    "script": {
      "path": "PROJECT/recipes/own_loop/train.py",
      "args": []
    },
    "data": {
      "samples": 1437,
      "workers": 0
    },
    "model": {
      "parameters": 17258
    },
    "batch": {
      "global": 250,
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
      "epochs": 15,
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
      "name": "adamw",
      "lr": 0.01,
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
        "project": null,
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
    "global": 250,
    "micro": 32,
    "accumulation": 4,
    "world_size": 2,
    "micro_steps": [
      4,
      4
    ],
    "follows_world": false
  },
  "stages": [
    {
      "global": 250,
      "micro_steps": [
        4,
        4
      ],
      "first_update": 0,
      "updates": 90,
      "learning_rate_scale": 1.0
    }
  ],
  "length": {
    "data_samples": 1437,
    "updates_per_epoch": 6,
    "tail_samples": 187,
    "updates": 90
  },
  "learning_rate": {
    "base": 0.01,
    "scale": 1.0,
    "shape": "constant",
    "warmup_updates": 0,
    "updates": 90,
    "final": 0.0,
    "stages": [],
    "drops": [],
    "drop_factor": 0.1
  },
  "reduction": {
    "parameters": 17258,
    "bytes_per_update": 69032,
    "bytes_without_no_sync": 276128,
    "gathered_bytes": 0
  },
  "warnings": [
    "a script that takes 4 micro-steps of 32 on 2 ranks alike sees 256 samples per update, not 250; batch.global=192 or 256 is what it would see, and an Accumulator.from_env with its sampler() sees what is planned."
  ],
  "found": [],
  "past": []
}
END_OF_FILE
ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 \
  ACCELERATE_MIXED_PRECISION=no \
  ACCELERATE_USE_CPU=true \
  CUDA_VISIBLE_DEVICES='' \
  LAUNCHER_ACCUMULATION=4 \
  LAUNCHER_GLOBAL_BATCH=250 \
  LAUNCHER_LEARNING_RATE=0.01 \
  LAUNCHER_MICRO_BATCH=32 \
  LAUNCHER_RUN_DIR=/runs/id \
  LAUNCHER_SEED=0 \
  LAUNCHER_UPDATES=90 \
  MALLOC_MMAP_THRESHOLD_=33554432 \
  MALLOC_TRIM_THRESHOLD_=1073741824 \
  OMP_NUM_THREADS=4 \
  PYTHONUNBUFFERED=1 \
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
  TORCH_ELASTIC_SHUTDOWN_TIMEOUT=60 \
  WANDB_ERROR_REPORTING=false \
  python -m launcher.worker.agent torchrun --standalone --nproc-per-node=2 --max-restarts=0 --log-dir=/runs/id/logs/agent -m launcher.worker.entry
