namespace OpenSora.Diffusion;

/// <summary>What a model predicts.</summary>
public enum Prediction
{
    /// <summary>The noise in its input (epsilon).</summary>
    Noise,

    /// <summary>The clean sample (x0).</summary>
    Sample,
}

/// <summary>Where the variance of a denoising step comes from.</summary>
public enum Variance
{
    /// <summary>The model's second half of channels, which interpolates between the other two in the logarithm (Nichol and Dhariwal 2021, section
    /// 3.1).</summary>
    LearnedRange,

    /// <summary>The posterior's variance given the clean sample: the lower bound.</summary>
    FixedSmall,

    /// <summary>Beta: the upper bound.</summary>
    FixedLarge,
}

/// <summary>What training minimises.</summary>
public enum DiffusionLoss
{
    /// <summary>The mean squared error of the prediction; with a learned variance plus the variational bound, which then trains the variance
    /// only.</summary>
    Mse,

    /// <summary>As <see cref="Mse"/>, the variational bound weighted by steps / 1000.</summary>
    RescaledMse,

    /// <summary>The variational bound of the step, in bits per dimension.</summary>
    Kl,

    /// <summary>As <see cref="Kl"/>, multiplied by the number of steps: an estimate of the whole bound.</summary>
    RescaledKl,
}

/// <summary>How an <see cref="Iddpm"/> process is parameterised. The defaults are those of Open-Sora 1.0, DiT, PixArt and Latte.</summary>
public sealed class IddpmOptions
{
    /// <summary>What the model predicts.</summary>
    public Prediction Prediction { get; set; } = Prediction.Noise;

    /// <summary>Where the variance of a step comes from.</summary>
    public Variance Variance { get; set; } = Variance.LearnedRange;

    /// <summary>What training minimises.</summary>
    public DiffusionLoss Loss { get; set; } = DiffusionLoss.Mse;

    /// <summary>Weighs the squared error of every step by min(SNR, gamma), taken as an error of the clean sample, so that steps of little noise do
    /// not
    /// outweigh the others (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"; published: 5). The variational bound
    /// keeps its weight.
    /// Null: no weights.</summary>
    public double? MinSnrGamma { get; set; }

    /// <summary>Whether sampling clamps the predicted clean sample to [-1, 1]: for pixels, not for latents, whose range is wider.</summary>
    public bool ClipDenoised { get; set; }
}
