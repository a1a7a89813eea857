"""Two classifiers on the same films: the difference of their areas under the ROC curve."""

import numpy as np
from scipy.stats import norm


def compare_auc(
    target: np.ndarray, first: np.ndarray, second: np.ndarray, patients: np.ndarray | None = None
) -> dict[str, float]:
    """Compare the AUC of two scores of the same films.

    DeLong, DeLong and Clarke-Pearson (Biometrics 1988); where a patient has several films, with the
    variance of Obuchowski (Biometrics 1997), which adds the placements of a patient's films up
    before it squares them. With one film a patient the two are the same.

    Parameters
    ----------
    target : (n,) of 0 and 1
    first, second : (n,), scores that rise with the finding, of any range
    patients : (n,); None for one film a patient

    Returns
    -------
    dict
        first, second (AUC, 0..1), first_error, second_error (their standard errors), difference
        (first less second), error (its standard error), low and high (its 95 % interval), p (of
        no difference, two-sided; 1 where the scores rank all films alike).

    Raises
    ------
    ValueError
        Films of one class only, or a class of one patient.
    """
    target = np.asarray(target)
    patients = np.arange(len(target)) if patients is None else np.asarray(patients)
    for side, name in ((1, "with the finding"), (0, "without")):
        if len(set(patients[target == side])) < 2:
            raise ValueError(f"a comparison needs films of two patients {name} at the least")
    areas, deviations = zip(
        *(_placements(target, np.asarray(score), patients) for score in (first, second)),
        strict=True,
    )
    covariance = _covariance(target, patients, np.stack(deviations))
    difference = areas[0] - areas[1]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    error = float(np.sqrt(max(variance, 0)))
    reach = norm.ppf(0.975) * error
    return {
        "first": areas[0],
        "second": areas[1],
        "first_error": float(np.sqrt(covariance[0, 0])),
        "second_error": float(np.sqrt(covariance[1, 1])),
        "difference": difference,
        "error": error,
        "low": difference - reach,
        "high": difference + reach,
        "p": float(2 * norm.sf(abs(difference) / error)) if error > 1e-12 else 1.0,
    }


def _placements(target, score, patients) -> tuple[float, np.ndarray]:
    """Return the AUC, and by class and patient the sum of placements less the AUC, (2, patients).

    The placement of a film with the finding is the share of films without it that score lower;
    that of a film without, the share of films with it that score higher; ties count one half.
    """
    ill, well = score[target == 1], score[target == 0]

    def share_below(values, others):
        others = np.sort(others)
        sides = [np.searchsorted(others, values, side) for side in ("left", "right")]
        return (sides[0] + sides[1]) / (2 * len(others))

    placements = np.empty(len(target))
    placements[target == 1] = share_below(ill, well)
    placements[target == 0] = 1 - share_below(well, ill)
    area = placements[target == 1].mean()
    _, of_film = np.unique(patients, return_inverse=True)
    sums = [np.bincount(of_film, (placements - area) * (target == side)) for side in (1, 0)]
    return float(area), np.stack(sums)


def _covariance(target, patients, deviations) -> np.ndarray:
    """Return the covariance of the areas from (scores, 2, patients) deviations."""
    count = deviations.shape[-1]
    films = np.array([(target == 1).sum(), (target == 0).sum()])
    within = [len(set(patients[target == side])) for side in (1, 0)]
    ill, well = (
        deviations[:, i] @ deviations[:, i].T * n / (n - 1) / films[i] ** 2
        for i, n in enumerate(within)
    )
    cross = deviations[:, 0] @ deviations[:, 1].T * count / (count - 1) / films.prod()
    return ill + well + cross + cross.T
