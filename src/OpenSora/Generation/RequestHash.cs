using System.Security.Cryptography;
using System.Text;
using OpenSora.Media;
using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Computes the hash of a request (<see cref="VideoRequest.ComputeHash"/>).</summary>
internal static class RequestHash
{
    /// <summary>Hashes all properties of a request that the video depends on. Every value is preceded by its presence or length, so that different
    /// requests are different sequences of bytes.</summary>
    /// <param name="request">The request.</param>
    public static string Of(VideoRequest request)
    {
        using var hash = SHA256.Create();
        using (var stream = new CryptoStream(Stream.Null, hash, CryptoStreamMode.Write))
        using (var writer = new BinaryWriter(stream, Encoding.UTF8))
        {
            writer.Write(request.Prompt);
            writer.Write(request.NegativePrompt is not null);
            writer.Write(request.NegativePrompt ?? "");
            Whole(request.Frames);
            Whole(request.Width);
            Whole(request.Height);
            Whole(request.Steps);
            Number(request.GuidanceScale);
            Number(request.FramesPerSecond);
            Whole(request.Seed);
            Whole(request.WindowFrames);
            Whole(request.WindowOverlap);
            Whole(request.PromptWeighting is { } weighted ? (weighted ? 1 : 0) : null);
            writer.Write(request.Segments.Count);
            foreach (var segment in request.Segments)
            {
                writer.Write(segment.Frame);
                writer.Write(segment.Prompt);
            }

            States(request.PromptStates);
            States(request.NegativePromptStates);
            writer.Write(request.Edit is not null);
            if (request.Edit is { } edit)
            {
                writer.Write(edit.Strength);
                Frames(edit.Video);
                writer.Write(edit.Mask is not null);
                if (edit.Mask is not null)
                {
                    Frames(edit.Mask);
                }
            }

            writer.Write(request.MaskStrategies.Count);
            foreach (var strategy in request.MaskStrategies)
            {
                writer.Write(strategy.ToString());
            }

            writer.Write(request.References.Count);
            foreach (var frames in request.References)
            {
                Frames(frames);
            }

            void Frames(VideoFrames frames)
            {
                writer.Write(frames.Count);
                writer.Write(frames.Height);
                writer.Write(frames.Width);
                writer.Write(frames.Pixels.Span);
            }

            void States(TextStates? states)
            {
                writer.Write(states is not null);
                if (states is not null)
                {
                    Numbers(states.States);
                    Numbers(states.Mask);
                }
            }

            void Numbers(Tensor tensor)
            {
                using var scope = NewDisposeScope();
                writer.Write(tensor.dim());
                Array.ForEach(tensor.shape, writer.Write);
                writer.Write(tensor.to_type(ScalarType.Float32).cpu().contiguous().bytes);
            }

            void Whole(long? value)
            {
                writer.Write(value.HasValue);
                writer.Write(value ?? 0);
            }

            void Number(double? value)
            {
                writer.Write(value.HasValue);
                writer.Write(value ?? 0);
            }
        }

        return Convert.ToHexStringLower(hash.Hash!);
    }
}
