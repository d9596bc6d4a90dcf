def make_wandb_tracker(plan, run_dir, say):
    return None
