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
