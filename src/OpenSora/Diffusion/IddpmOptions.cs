namespace OpenSora.Diffusion;

/// <summary>The quantity that a model predicts.</summary>
public enum Prediction
{
    /// <summary>The noise in the model's input (epsilon).</summary>
    Noise,

    /// <summary>The clean sample (x0).</summary>
    Sample,
}

/// <summary>The source of the variance of a denoising step.</summary>
public enum Variance
{
    /// <summary>The second half of the model's output channels, which interpolates between the lower and upper bound on a logarithmic scale (Nichol
    /// and Dhariwal 2021, section 3.1).</summary>
    LearnedRange,

    /// <summary>The variance of the posterior given the clean sample, which is the lower bound.</summary>
    FixedSmall,

    /// <summary>Beta, which is the upper bound.</summary>
    FixedLarge,
}

/// <summary>The loss that training minimizes.</summary>
public enum DiffusionLoss
{
    /// <summary>The mean squared error of the prediction. With a learned variance, the variational bound is added, which trains only the
    /// variance.</summary>
    Mse,

    /// <summary>The mean squared error of the prediction. With a learned variance, the variational bound is added with the weight steps /
    /// 1000.</summary>
    RescaledMse,

    /// <summary>The variational bound of the step, in bits per dimension.</summary>
    Kl,

    /// <summary>The variational bound of the step multiplied by the number of steps, which is an estimate of the whole bound.</summary>
    RescaledKl,
}

/// <summary>Options that parameterize an <see cref="Iddpm"/> process. The defaults are those of Open-Sora 1.0, DiT, PixArt and Latte.</summary>
public sealed class IddpmOptions
{
    /// <summary>The quantity that the model predicts.</summary>
    public Prediction Prediction { get; set; } = Prediction.Noise;

    /// <summary>The source of the variance of a step.</summary>
    public Variance Variance { get; set; } = Variance.LearnedRange;

    /// <summary>The loss that training minimizes.</summary>
    public DiffusionLoss Loss { get; set; } = DiffusionLoss.Mse;

    /// <summary>The gamma of min-SNR weighting: the squared error of every step, expressed as an error of the clean sample, is weighted by min(SNR,
    /// gamma), so that steps with little noise do not dominate (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy",
    /// which uses 5). The variational bound is not affected. Null disables the weighting.</summary>
    public double? MinSnrGamma { get; set; }

    /// <summary>Indicates whether sampling clamps the predicted clean sample to [-1, 1]. Use this for pixels only; latents have a wider
    /// range.</summary>
    public bool ClipDenoised { get; set; }
}
