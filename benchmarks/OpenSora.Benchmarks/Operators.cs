using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

internal static class Operators
{
    public static void Run()
    {
        const int Calls = 100_000;
        using var x = zeros(1);
        using var mode = no_grad();
        var add = Timing.Median(5, () =>
        {
            for (var i = 0; i < Calls; i++)
            {
                x.add_(1);
            }
        });
        var created = Timing.Median(5, () =>
        {
            for (var i = 0; i < Calls; i++)
            {
                x.add(x).Dispose();
            }
        });
        Console.WriteLine($"  add_ of a number       {add.TotalMicroseconds / Calls:F2} us per call");
        Console.WriteLine($"  add, result disposed   {created.TotalMicroseconds / Calls:F2} us per call");
    }
}
