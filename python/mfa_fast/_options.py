"""Options and arguments that several commands of `mfa-fast` share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Images: mnist.npz, a folder of MNIST's IDX files or (with --attribute) of CelebA."
        " Left out: scikit-learn's bundled digits.",
    ),
]
DataOrArray = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="A .npy file, an .npz file with X and perhaps y; or, with --pair, MNIST (mnist.npz or"
        " a folder of IDX files) or, with --attribute, a CelebA folder. Left out: scikit-learn's"
        " bundled digits.",
    ),
]
Pair = Annotated[tuple[int, int], typer.Option(help="The two digits.", metavar="A B")]
PairOrNone = Annotated[
    tuple[int, int] | None,
    typer.Option(help="The two digits, where the data are digits.", metavar="A B"),
]
Attribute = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="CelebA: the attribute that tells the classes apart, such as Male."),
]
Size = Annotated[
    int, typer.Option(min=1, metavar="N", help="CelebA: side to which faces are resized. Only with --attribute.")
]
_COMPONENTS = "Components per class. Left out: 5 for the bundled digits, 25 for MNIST, one per 1,000 images for faces."
_FACTORS = "Factors per component. Left out: 4 for the bundled digits, 6 for MNIST, 10 for faces."
_NEEDED = "Needed where --data is an array file."
Components = Annotated[int | None, typer.Option(min=1, metavar="N", help=_COMPONENTS)]
ComponentsToFit = Annotated[int | None, typer.Option(min=1, metavar="N", help=f"{_COMPONENTS} {_NEEDED}")]
Factors = Annotated[int | None, typer.Option(min=0, metavar="N", help=_FACTORS)]
FactorsToFit = Annotated[int | None, typer.Option(min=0, metavar="N", help=f"{_FACTORS} {_NEEDED}")]
MaxIter = Annotated[int, typer.Option(min=1, metavar="N", help="Most EM iterations.")]
NoiseType = Annotated[
    Literal["spherical", "diag"],
    typer.Option(help="Of a component: one variance for all features, or one for each."),
]
MinNoiseVariance = Annotated[
    float, typer.Option(metavar="VARIANCE", help="The floor of the noise, in squared units of the data.")
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of everything random.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Threads. Left out: as many as OMP_NUM_THREADS says, or all cores."),
]
AsymmetricNoiseStd = Annotated[
    float,
    typer.Option(
        metavar="STD",
        help="The same, of all but the outlier components, for the asymmetric one. On MNIST 0-6, 0.01 gives"
        " the paper's mean L2 of 0.5. At 0.001 the median is 0.07, by arithmetic: in d dimensions"
        " sigma (sqrt(2 d ln(0.5/sigma) + d) - sqrt(d)); a tail lifts the mean to some 0.15."
        " Where it differs from --noise-std, that noise gets a row of its own.",
    ),
]
Steps = Annotated[
    int, typer.Option(min=1, metavar="N", help="Most LD-Grad steps; an attack stops once it has succeeded.")
]
Method = Annotated[
    Literal["ld-grad", "nearest"],
    typer.Option(
        help="LD-Grad, or the nearest adversarial sample with a lower bound and whether it is proved to be that."
    ),
]
Model = Annotated[Path, typer.Argument(help="A model file, .safetensors.", show_default=False)]
