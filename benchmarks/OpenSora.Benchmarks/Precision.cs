using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

internal static class Precision
{
    public static void Run()
    {
        using var mode = no_grad();
        Report("matrix multiplication 4096 x 1024 x 256", 2.0 * 4096 * 1024 * 256, type =>
        {
            var a = randn(4096, 256).to(type);
            var b = randn(256, 1024).to(type);
            return () => a.mm(b).Dispose();
        });
        Report("convolution 3x3, 64 channels, 8 x 64 x 64", 2.0 * 8 * 64 * 64 * 64 * 64 * 9, type =>
        {
            var x = randn(8, 64, 64, 64).to(type);
            var w = randn(64, 64, 3, 3).to(type);
            return () => nn.functional.conv2d(x, w, padding: [1, 1]).Dispose();
        });
    }

    private static void Report(string name, double operations, Func<ScalarType, Action> prepare)
    {
        using var scope = NewDisposeScope();
        var single = Timing.Median(20, prepare(ScalarType.Float32));
        var brain = Timing.Median(20, prepare(ScalarType.BFloat16));
        Console.WriteLine(
            $"  {name}: float32 {operations / single.TotalSeconds / 1e9:F0} GFLOP/s, "
                + $"bfloat16 {operations / brain.TotalSeconds / 1e9:F0} GFLOP/s, ratio {single / brain:F2}"
        );
    }
}
