mkdir -p /runs/id
cat > /runs/id/recipe.yaml.pasted <<'END_OF_FILE'
name: sft
task:
  entry: PROJECT/recipes/sft/task.py:Sft
  args: {model: Qwen/Qwen2.5-0.5B, train: 'trl-lib/Capybara:train', eval: 'trl-lib/Capybara:test',
    max_length: 2048}
data: {samples: null, workers: 2}
model: {parameters: 494032768}
batch:
  global: 128
  micro: 4
  accumulation: null
  on_out_of_memory: null
  tail: keep
  schedule: []
multitask:
  losses: {}
  backward: joint
train: {epochs: 3, updates: null, samples: null, precision: bf16, accumulate_dtype: null,
  tf32: false, compile: false, max_grad_norm: 1.0, seed: 0, determinism: same-world,
  virtual_ranks: null}
optimizer:
  name: adamw
  lr: 2.0e-05
  weight_decay: 0.0
  betas: [0.9, 0.999]
  eps: 1.0e-08
  momentum: 0.0
  nesterov: false
schedule:
  name: cosine
  warmup: 0.03
  final: 0.0
  at: []
  factor: 0.1
  unit: updates
lr_scaling: {rule: none, reference_batch: null}
eval: {every: epoch}
guard: {every: 100, heartbeat: 30.0, stall: 1800.0, non_finite: stop}
noise_scale: {every: 10, measured: null}
parallel:
  engine: fsdp
  deepspeed:
    stage: 1
    offload_optimizer: false
    offload_parameters: false
    config: {}
  fsdp:
    wrap: [Qwen2DecoderLayer]
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
    project: sft
    entity: null
    group: null
    tags: []
    mode: auto
END_OF_FILE
cat > /runs/id/plan.json.pasted <<'END_OF_FILE'
{
  "recipe": {
    "name": "sft",
    "task": {
      "entry": "PROJECT/recipes/sft/task.py:Sft",
      "args": {
        "model": "Qwen/Qwen2.5-0.5B",
        "train": "trl-lib/Capybara:train",
        "eval": "trl-lib/Capybara:test",
        "max_length": 2048
      }
    },
    "script": null,
    "data": {
      "samples": null,
      "workers": 2
    },
    "model": {
      "parameters": 494032768
    },
    "batch": {
      "global": 128,
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
      "epochs": 3,
      "updates": null,
      "samples": null,
      "precision": "bf16",
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
      "lr": 0.00002,
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
      "name": "cosine",
      "warmup": 0.03,
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
      "engine": "fsdp",
      "deepspeed": {
        "stage": 1,
        "offload_optimizer": false,
        "offload_parameters": false,
        "config": {}
      },
      "fsdp": {
        "wrap": [
          "Qwen2DecoderLayer"
        ],
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
        "project": "sft",
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
    "global": 128,
    "micro": 4,
    "accumulation": 16,
    "world_size": 2,
    "micro_steps": [
      16,
      16
    ],
    "follows_world": false
  },
  "stages": [
    {
      "global": 128,
      "micro_steps": [
        16,
        16
      ],
      "first_update": 0,
      "updates": null,
      "learning_rate_scale": 1.0
    }
  ],
  "length": {
    "data_samples": null,
    "updates_per_epoch": null,
    "tail_samples": null,
    "updates": null
  },
  "learning_rate": {
    "base": 0.00002,
    "scale": 1.0,
    "shape": "cosine",
    "warmup_updates": 0,
    "updates": null,
    "final": 0.0,
    "stages": [],
    "drops": [],
    "drop_factor": 0.1
  },
  "reduction": {
    "parameters": 494032768,
    "bytes_per_update": 1976131072,
    "bytes_without_no_sync": 31618097152,
    "gathered_bytes": 31618097152
  },
  "warnings": [],
  "found": [],
  "past": []
}
END_OF_FILE
ACCELERATE_GRADIENT_ACCUMULATION_STEPS=16 \
  ACCELERATE_MIXED_PRECISION=bf16 \
  ACCELERATE_USE_CPU=true \
  CUDA_VISIBLE_DEVICES='' \
  LAUNCHER_ACCUMULATION=16 \
  LAUNCHER_GLOBAL_BATCH=128 \
  LAUNCHER_LEARNING_RATE=2e-05 \
  LAUNCHER_MICRO_BATCH=4 \
  LAUNCHER_RUN_DIR=/runs/id \
  LAUNCHER_SEED=0 \
  MALLOC_MMAP_THRESHOLD_=33554432 \
  MALLOC_TRIM_THRESHOLD_=1073741824 \
  OMP_NUM_THREADS=4 \
  PYTHONUNBUFFERED=1 \
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
  TORCH_ELASTIC_SHUTDOWN_TIMEOUT=60 \
  WANDB_ERROR_REPORTING=false \
  python -m launcher.worker.agent torchrun --standalone --nproc-per-node=2 --max-restarts=0 --log-dir=/runs/id/logs/agent -m launcher.worker.entry
