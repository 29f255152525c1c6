using System.Globalization;
using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Objectives;

/// <summary>Trains an image autoencoder to reconstruct images. Every frame of a batch is treated as an image.</summary>
public sealed class VaeTraining : ITrainingObjective
{
    private readonly AutoencoderKL _vae;

    /// <summary>Creates an objective for an autoencoder.</summary>
    /// <param name="vae">The autoencoder. The caller keeps ownership of it.</param>
    public VaeTraining(AutoencoderKL vae)
    {
        ArgumentNullException.ThrowIfNull(vae);
        _vae = vae;
        Modules = new Dictionary<string, nn.Module>(StringComparer.Ordinal) { ["vae"] = vae };
    }

    /// <summary>The weight of the mean absolute error of pixels.</summary>
    public double Absolute { get; init; } = 1;

    /// <summary>The weight of the mean squared error of pixels.</summary>
    public double Squared { get; init; } = 1;

    /// <summary>The weight of the mean absolute error of differences between neighboring pixels, at full, half and quarter size. This term keeps
    /// edges sharp.</summary>
    public double Edges { get; init; } = 1;

    /// <summary>The weight of the Kullback-Leibler divergence of the latent distribution from a standard normal distribution, averaged over latent
    /// values. It is small because this term only keeps the latents from growing (Rombach et al., 2022, appendix G: about 1e-6 of a sum).</summary>
    public double Divergence { get; init; } = 1e-4;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, nn.Module> Modules { get; }

    /// <inheritdoc/>
    public string Fingerprint =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"{nameof(VaeTraining)}: absolute {Absolute:R}, squared {Squared:R}, " + $"edges {Edges:R}, divergence {Divergence:R}"
        );

    /// <inheritdoc/>
    public bool DrawsForWholeBatch => true;

    /// <inheritdoc/>
    public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator)
    {
        ArgumentNullException.ThrowIfNull(batch);
        var video = batch.Video;
        var (c, h, w) = (video.shape[1], video.shape[3], video.shape[4]);
        var frames = video.transpose(1, 2).reshape(-1, c, h, w);

        var (mean, logVariance) = _vae.EncodeImages(frames);
        var (count, length) = (mean.shape[0], video.shape[2]);
        var noise = randn([batch.WholeSize * length, .. mean.shape[1..]], generator: generator)
            .narrow(0, batch.Offset * length, count)
            .to(mean.device);
        var output = _vae.DecodeImages(AutoencoderKL.Sample(mean, logVariance, noise));

        var difference = output - frames.to_type(ScalarType.Float32);
        var absolute = difference.abs().mean();
        var squared = difference.Squared().mean();
        var edges = EdgeLoss(difference);
        var divergence = (mean.Squared().Plus(logVariance.exp()).Minus(1) - logVariance).mean().Over(2);
        var total = absolute.Times(Absolute).Plus(squared.Times(Squared)).Plus(edges.Times(Edges)).Plus(divergence.Times(Divergence));
        return new TrainingLoss(total)
        {
            Parts = new Dictionary<string, Tensor>(StringComparer.Ordinal)
            {
                ["l1"] = absolute,
                ["psnr"] = squared.detach().to_type(ScalarType.Float64).Over(4).log10().Times(-10), // pixel values span a range of 2
                ["edges"] = edges,
                ["kl"] = divergence,
            },
        };
    }

    // Computes the edge loss. Differences are linear in the images, so they are taken of the difference of the images.
    private static Tensor EdgeLoss(Tensor difference)
    {
        var total = Steps(difference);
        for (var level = 0; level < 2; level++)
        {
            difference = nn.functional.avg_pool2d(difference, 2);
            total = total.Plus(Steps(difference));
        }
        return total.Over(3);
    }

    private static Tensor Steps(Tensor x) =>
        (x.narrow(2, 1, x.shape[2] - 1) - x.narrow(2, 0, x.shape[2] - 1))
            .abs()
            .mean()
            .Plus((x.narrow(3, 1, x.shape[3] - 1) - x.narrow(3, 0, x.shape[3] - 1)).abs().mean());
}
