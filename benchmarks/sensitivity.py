"""How much do tau, p and gamma matter? Stage 2 over a grid of them, for docs/.

    python -m benchmarks.sensitivity --model examples.demo:demo_network --store_dir demo_output/store
    python -m benchmarks.sensitivity --model examples.efficientnet_lite0:efficientnet_lite0 --store_dir STORE \\
        --proportion_attribution_required 0.005 0.01 0.02 --only_correct --min_images 10

All flags are stage 2's; thresholds that are not given have a grid around the paper's. Prints stage 2's table under the
machine and the time it took, and leaves the CSV and the heat map where stage 2 puts them (--output_dir). For separation
the store needs the validation images, too (stage 1 with --images val).
"""

import sys

from benchmarks.report import machine, run

GRID = {
    "--proportion_attribution_required": ("0.01", "0.02", "0.03", "0.05", "0.1"),
    "--p": ("0.5", "0.75", "0.9"),
    "--cos_sim_high": ("0.1", "0.3", "0.5", "0.7", "0.9"),
}


def main(arguments):
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return
    grid = [word for flag, values in GRID.items() if flag not in arguments for word in (flag, *values)]
    seconds, _, output = run("get_cosine_similarities.py", *arguments, *grid)
    print(f"{machine()}; {seconds:.0f} s\n{output}")


if __name__ == "__main__":
    main(sys.argv[1:])
